//! The start of the program in place of the standard library's, which does more than is needed here.
//!
//! Runs first, in every command. To tell an overflow of the stack from another fault the library looks up where the
//! stack ends, by reading `/proc/self/maps`, and prepares a second stack and two handlers: a tenth of what `state` takes.
//! What of its start matters is below. An overflow ends this program all the same, at the page that the kernel guards.

use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::sys::stat::Mode;
use std::os::fd::IntoRawFd;

use super::fd::is_open;

/// Name the function that is the program: it takes nothing, and returns the exit status.
macro_rules! program {
    ($program:path) => {
        // SAFETY: the C library calls this name once, in the only thread.
        #[cfg(not(test))]
        #[allow(unsafe_code)]
        #[unsafe(no_mangle)]
        extern "C" fn main() -> std::ffi::c_int {
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
