//! The start of the program in place of the standard library's, which does more than is needed here.
//!
//! Runs first, in every command. To tell an overflow of the stack from another fault the library looks up where the
//! stack ends, by reading `/proc/self/maps`, and prepares a second stack and two handlers: a tenth of what `state` takes.
//! What of its start matters is below. An overflow ends this program all the same, at the page that the kernel guards.

use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::sys::stat::Mode;
use std::ffi::{CStr, OsStr, OsString, c_char};
use std::os::fd::IntoRawFd;
use std::os::unix::ffi::OsStrExt;
use std::sync::atomic::{AtomicPtr, Ordering};
use std::{iter, ptr};

use super::fd::is_open;

/// Name the function that is the program: it takes nothing, and returns the exit status.
macro_rules! program {
    ($program:path) => {
        // SAFETY: the C library calls this name once, in the only thread.
        #[cfg(not(test))]
        #[allow(unsafe_code)]
        #[unsafe(no_mangle)]
        extern "C" fn main(
            _count: std::ffi::c_int,
            arguments: *const *const std::ffi::c_char,
        ) -> std::ffi::c_int {
            $crate::sys::start::ARGUMENTS.store(arguments.cast_mut(), std::sync::atomic::Ordering::Relaxed);
            $program().into()
        }

        // The tests have their own beginning, and leave this one unused.
        #[cfg(test)]
        fn main() {
            $program();
        }
    };
}
pub(crate) use program;

/// As the C library has handed them over: a list that ends with a null pointer.
pub static ARGUMENTS: AtomicPtr<*const c_char> = AtomicPtr::new(ptr::null_mut());

/// The words that the program was called with, its own name first. The standard library knows them only with glibc,
/// which hands them to whoever wants them.
pub fn arguments() -> impl Iterator<Item = OsString> {
    let mut next = ARGUMENTS.load(Ordering::Relaxed).cast_const();
    iter::from_fn(move || {
        // SAFETY: null before `main`; then the list, past whose end nobody goes; it lives as long as the process.
        let word = unsafe { *next.as_ref()? };
        if word.is_null() {
            return None;
        }
        next = next.wrapping_add(1);
        // SAFETY: the list is of C strings.
        let word = unsafe { CStr::from_ptr(word) };
        Some(OsStr::from_bytes(word.to_bytes()).to_owned())
    })
}

/// Give each standard stream that the caller has closed the null device, or the next file that is opened would be
/// taken for it; and have a write to a pipe without a reader fail instead of killing us.
pub fn prepare() -> Result<(), Errno> {
    for number in 0..3 {
        if !is_open(number) {
            // The lowest that is free, so this one. It stays open for as long as the process.
            let _ = open(c"/dev/null", OFlag::O_RDWR, Mode::empty())?.into_raw_fd();
        }
    }
    super::process::ignore_broken_pipes()
}
