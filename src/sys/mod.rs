//! How the kernel is called safely: the only `unsafe` of the project. Any process runs it.
//!
//! Takes borrowed descriptors and `&CStr`, returns owned descriptors or nothing, fails with a bare
//! `Errno`. No policy.
#![allow(unsafe_code)]

pub mod seccomp;
