//! How the kernel is called safely: the only `unsafe` of the project.
//!
//! Runs anywhere. Takes borrowed descriptors and `&CStr`, returns owned descriptors or nothing, and fails with
//! a bare [`Errno`]. No policy: which call, with which arguments, is decided elsewhere.
#![allow(unsafe_code)]

pub mod bpf;
pub mod creds;
#[cfg(all(target_arch = "x86_64", not(debug_assertions)))]
mod entry;
pub mod fd;
pub mod mount;
pub mod namespace;
pub mod netlink;
pub mod path;
pub mod process;
pub mod procfs;
pub mod program;
pub mod seal;
pub mod seccomp;
pub mod stamps;
pub mod start;
pub mod terminal;

use nix::errno::Errno;

/// What a raw system call returned, as a result.
fn checked(value: libc::c_long) -> Result<libc::c_long, Errno> {
    Errno::result(value)
}

/// What strerror(3) says, and with it everybody else.
pub fn strerror(errno: Errno) -> String {
    let text = std::io::Error::from_raw_os_error(errno as i32).to_string();
    text.split(" (os error").next().unwrap_or_default().to_string()
}
