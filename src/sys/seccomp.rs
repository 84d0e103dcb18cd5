//! seccomp(2): ask what the kernel supports, load a filter.

use std::ffi::{c_uint, c_ulong, c_ushort};
use std::os::fd::{FromRawFd, OwnedFd, RawFd};
use std::ptr;

use nix::errno::Errno;
use seccompiler::sock_filter;

/// `struct sock_fprog` over the instructions that the planner makes, laid out as the kernel's.
#[repr(C)]
struct Program {
    length: c_ushort,
    instructions: *const sock_filter,
}

/// Filter this thread's system calls from now on. With `SECCOMP_FILTER_FLAG_NEW_LISTENER` the result is
/// the descriptor to listen on.
///
/// Needs no_new_privs or CAP_SYS_ADMIN; sets neither.
pub fn load(instructions: &[sock_filter], flags: u64) -> Result<Option<OwnedFd>, Errno> {
    let length = c_ushort::try_from(instructions.len()).map_err(|_| Errno::E2BIG)?;
    let program = Program { length, instructions: instructions.as_ptr() };
    let result = set_filter(flags, &program)?;
    if flags & libc::SECCOMP_FILTER_FLAG_NEW_LISTENER == 0 {
        return Ok(None);
    }
    // SAFETY: the kernel has just made this descriptor for us, and nobody else knows it.
    Ok(Some(unsafe { OwnedFd::from_raw_fd(result as RawFd) }))
}

/// The `SECCOMP_FILTER_FLAG_*` that this kernel knows.
pub fn supported_flags() -> u64 {
    const NEW_LISTENER: u64 = libc::SECCOMP_FILTER_FLAG_NEW_LISTENER;
    // The last one is valid only together with a listener.
    let probes = [
        (libc::SECCOMP_FILTER_FLAG_LOG, 0),
        (libc::SECCOMP_FILTER_FLAG_SPEC_ALLOW, 0),
        (NEW_LISTENER, 0),
        (libc::SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV, NEW_LISTENER),
    ];
    let known = probes.iter().filter(|(flag, with)| knows(flag | with));
    known.fold(0, |flags, (flag, _)| flags | flag)
}

/// Flags are checked before the program is read: with all of them known, the missing program is the error.
fn knows(flags: u64) -> bool {
    set_filter(flags, ptr::null()) == Err(Errno::EFAULT)
}

fn set_filter(flags: u64, program: *const Program) -> Result<i64, Errno> {
    let operation: c_uint = libc::SECCOMP_SET_MODE_FILTER;
    let flags: c_ulong = flags;
    // SAFETY: the kernel copies the program and its instructions before it returns; a null program is
    // refused. Callers pass null, or a program whose instructions they borrow during the call.
    let result = unsafe { libc::syscall(libc::SYS_seccomp, operation, flags, program) };
    Errno::result(result)
}
