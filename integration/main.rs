//! The integration tests: the real binary, real containers, as root. One chapter per subject.
//! `CORTEN_BIN` names another runtime to run the same chapters against.

mod bundle;
mod call;
mod traces;

mod lifecycle;
mod mounts;
mod namespaces;
