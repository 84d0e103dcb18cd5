//! Resolution below a directory that a container may have filled with anything (openat2(2)).

use std::ffi::CStr;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use nix::errno::Errno;

use super::checked;

/// Open `path` with `root` as the root: symbolic links cannot lead out, and magic links (proc(5)) are refused.
///
/// A rename that races with a `..` makes the kernel answer EAGAIN; it is asked again, a bounded number of times.
pub fn open_in_root(
    root: BorrowedFd<'_>,
    path: &CStr,
    flags: libc::c_int,
    mode: u32,
) -> Result<OwnedFd, Errno> {
    resolve(root, path, flags, mode, libc::RESOLVE_IN_ROOT | libc::RESOLVE_NO_MAGICLINKS)
}

/// Open `path` below `directory` without following any symbolic link and without crossing a mount.
pub fn open_beneath(directory: BorrowedFd<'_>, path: &CStr, flags: libc::c_int) -> Result<OwnedFd, Errno> {
    let strict = libc::RESOLVE_BENEATH | libc::RESOLVE_NO_SYMLINKS | libc::RESOLVE_NO_XDEV;
    resolve(directory, path, flags, 0, strict)
}

/// Open `path` below `directory`, along plain symbolic links, without crossing a mount.
pub fn open_in_one_mount(
    directory: BorrowedFd<'_>,
    path: &CStr,
    flags: libc::c_int,
) -> Result<OwnedFd, Errno> {
    let strict = libc::RESOLVE_BENEATH | libc::RESOLVE_NO_MAGICLINKS | libc::RESOLVE_NO_XDEV;
    resolve(directory, path, flags, 0, strict)
}

/// Open a namespace below `ns`, a directory `/proc/PID/ns`. Its entries are magic links, which no resolution that
/// stays in procfs can follow; whoever uses the result has the kernel check what it is.
pub fn open_namespace(ns: BorrowedFd<'_>, name: &CStr) -> Result<OwnedFd, Errno> {
    use nix::fcntl::{OFlag, openat};
    openat(ns, name, OFlag::O_RDONLY | OFlag::O_CLOEXEC, nix::sys::stat::Mode::empty())
}

/// Open what `file` is open on once more, by its entry in `fds`, a directory `/proc/self/fd`. That is a magic link too,
/// and leads to the very file that the caller has looked at.
pub fn open_descriptor(
    fds: BorrowedFd<'_>,
    file: BorrowedFd<'_>,
    flags: libc::c_int,
) -> Result<OwnedFd, Errno> {
    use nix::fcntl::{OFlag, openat};
    let mut digits = [0; 12];
    let name = decimal(file.as_raw_fd(), &mut digits)?;
    openat(fds, name, OFlag::from_bits_retain(flags) | OFlag::O_CLOEXEC, nix::sys::stat::Mode::empty())
}

/// A descriptor's number as a file name.
fn decimal(number: i32, digits: &mut [u8; 12]) -> Result<&CStr, Errno> {
    let mut rest = u32::try_from(number).map_err(|_| Errno::EBADF)?;
    let mut start = digits.len() - 1;
    loop {
        start -= 1;
        digits[start] = b'0' + (rest % 10) as u8;
        rest /= 10;
        if rest == 0 {
            return CStr::from_bytes_with_nul(&digits[start..]).map_err(|_| Errno::EBADF);
        }
    }
}

/// Whether the working directory is below the root: where it is not, getcwd(2) says `(unreachable)` in front of a path.
/// Not libc's, which then walks up by itself and may find a way.
pub fn is_inside_root() -> Result<bool, Errno> {
    let mut path = [0u8; libc::PATH_MAX as usize];
    // SAFETY: the pointer and the length describe one live buffer.
    checked(unsafe { libc::syscall(libc::SYS_getcwd, path.as_mut_ptr(), path.len()) })?;
    Ok(path[0] == b'/')
}

fn resolve(
    directory: BorrowedFd<'_>,
    path: &CStr,
    flags: libc::c_int,
    mode: u32,
    resolve: u64,
) -> Result<OwnedFd, Errno> {
    const ATTEMPTS: usize = 128;
    // SAFETY: all bytes zero is a valid `open_how`.
    let mut how: libc::open_how = unsafe { std::mem::zeroed() };
    how.flags = (flags | libc::O_CLOEXEC) as u64;
    how.mode = u64::from(mode);
    how.resolve = resolve;
    let mut last = Errno::EAGAIN;
    for _ in 0..ATTEMPTS {
        // SAFETY: the path is a C string; the pointer and the size describe one live `open_how`.
        match checked(unsafe {
            libc::syscall(
                libc::SYS_openat2,
                directory.as_raw_fd(),
                path.as_ptr(),
                &how as *const libc::open_how,
                size_of::<libc::open_how>(),
            )
        }) {
            // SAFETY: the kernel has just given us this descriptor, and nobody else knows it.
            Ok(fd) => return Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) }),
            Err(error @ (Errno::EAGAIN | Errno::EINTR)) => last = error,
            Err(error) => return Err(error),
        }
    }
    Err(last)
}
