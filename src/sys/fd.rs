//! Descriptors: what they are, how they cross a socket, and how none is left behind.

use std::io::{IoSlice, IoSliceMut};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use nix::errno::Errno;
use nix::sys::socket::{self, ControlMessage, ControlMessageOwned, MsgFlags};

use super::checked;

/// A descriptor by number, for the three that every process is born with and those that a caller preserved.
///
/// The caller has seen that `number` is open; nothing closes it through the borrow.
pub fn inherited(number: RawFd) -> BorrowedFd<'static> {
    // SAFETY: borrowing never closes, and a stale number only makes a later call fail with EBADF.
    unsafe { BorrowedFd::borrow_raw(number) }
}

/// The current directory, where a call wants a directory.
pub fn current_directory() -> BorrowedFd<'static> {
    inherited(libc::AT_FDCWD)
}

/// Mark all descriptors from `first` on close-on-exec (close_range(2)).
pub fn close_on_exec_from(first: u32) -> Result<(), Errno> {
    close_range(first, u32::MAX, libc::CLOSE_RANGE_CLOEXEC)
}

/// Leave a descriptor open across execve(2) (`FD_CLOEXEC`, fcntl(2)).
pub fn keep_on_exec(fd: BorrowedFd<'_>) -> Result<(), Errno> {
    use nix::fcntl::{F_SETFD, FdFlag, fcntl};
    fcntl(fd, F_SETFD(FdFlag::empty())).map(drop)
}

fn close_range(first: u32, last: u32, flags: libc::c_uint) -> Result<(), Errno> {
    // SAFETY: no memory is passed; whose descriptors these are is the callers' promise.
    checked(unsafe { libc::syscall(libc::SYS_close_range, first, last, flags) })?;
    Ok(())
}

/// Whether `number` is an open descriptor.
pub fn is_open(number: RawFd) -> bool {
    // SAFETY: F_GETFD takes no third argument and changes nothing.
    unsafe { libc::fcntl(number, libc::F_GETFD) >= 0 }
}

/// Put a copy of `fd` on `number`, replacing what was there.
pub fn duplicate_onto(fd: BorrowedFd<'_>, number: RawFd) -> Result<(), Errno> {
    // SAFETY: the standard streams, which this is for, are not owned by any Rust value.
    checked(unsafe { libc::dup2(fd.as_raw_fd(), number) }.into())?;
    Ok(())
}

/// Close all descriptors from `first` on but those in `kept`, which is sorted.
///
/// For a child that has just been cloned and never returns to who owned the others.
pub fn close_all_but(first: u32, kept: &[RawFd]) -> Result<(), Errno> {
    let mut from = first;
    for kept in kept.iter().map(|number| *number as u32).chain([u32::MAX]) {
        if from < kept {
            close_range(from, kept - 1, 0)?;
        }
        from = from.max(kept.saturating_add(1));
    }
    Ok(())
}

/// Send `payload` and one descriptor in one message (unix(7), SCM_RIGHTS).
pub fn send_with_fd(socket: BorrowedFd<'_>, payload: &[u8], fd: BorrowedFd<'_>) -> Result<(), Errno> {
    send_with_fds(socket, payload, &[fd.as_raw_fd()])
}

/// The same with several, by number.
pub fn send_with_fds(socket: BorrowedFd<'_>, payload: &[u8], fds: &[RawFd]) -> Result<(), Errno> {
    socket::sendmsg::<()>(
        socket.as_raw_fd(),
        &[IoSlice::new(payload)],
        &[ControlMessage::ScmRights(fds)],
        MsgFlags::MSG_NOSIGNAL,
        None,
    )
    .map(drop)
}

/// Receive one descriptor that has been sent already; the payload is read into `payload` and its length returned.
/// Further ones are closed. EAGAIN when nothing has been sent.
pub fn receive_fd(socket: BorrowedFd<'_>, payload: &mut [u8]) -> Result<(usize, Option<OwnedFd>), Errno> {
    let (length, fds) = receive_fds(socket, payload, MsgFlags::MSG_DONTWAIT)?;
    Ok((length, fds.into_iter().next()))
}

/// Receive a message with all descriptors that came along.
pub fn receive_fds(
    socket: BorrowedFd<'_>,
    payload: &mut [u8],
    flags: MsgFlags,
) -> Result<(usize, Vec<OwnedFd>), Errno> {
    // Room for all that may come (SCM_MAX_FD): of what does not fit, some would stay open.
    let mut space = nix::cmsg_space!([RawFd; 253]);
    let mut vector = [IoSliceMut::new(payload)];
    let message = socket::recvmsg::<()>(
        socket.as_raw_fd(),
        &mut vector,
        Some(&mut space),
        MsgFlags::MSG_CMSG_CLOEXEC | flags,
    )?;
    let mut fds = Vec::new();
    for control in message.cmsgs()? {
        if let ControlMessageOwned::ScmRights(numbers) = control {
            // SAFETY: the kernel has just installed these descriptors for us, and nobody else knows them.
            fds.extend(numbers.into_iter().map(|number| unsafe { OwnedFd::from_raw_fd(number) }));
        }
    }
    Ok((message.bytes, fds))
}

/// Write all of `bytes` in one call; a short write is an error, as it would be for a kernel file.
pub fn write_once(fd: BorrowedFd<'_>, bytes: &[u8]) -> Result<(), Errno> {
    loop {
        match nix::unistd::write(fd, bytes) {
            Ok(length) if length == bytes.len() => return Ok(()),
            Ok(_) => return Err(Errno::EIO),
            Err(Errno::EINTR) => {}
            Err(error) => return Err(error),
        }
    }
}

/// Whether a file is the null device, character device 1:3 (null(4)).
pub fn is_null_device(stat: &nix::sys::stat::FileStat) -> bool {
    stat.st_mode & libc::S_IFMT == libc::S_IFCHR && stat.st_rdev == libc::makedev(1, 3)
}

/// Copy all extended attributes (xattr(7)) that both filesystems take.
pub fn copy_extended_attributes(from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> Result<(), Errno> {
    // XATTR_LIST_MAX, and below XATTR_SIZE_MAX.
    let mut names = [0u8; 65536];
    // SAFETY: the pointer and the length describe one live buffer.
    let listed = unsafe { libc::flistxattr(from.as_raw_fd(), names.as_mut_ptr().cast(), names.len()) };
    let length = match Errno::result(listed) {
        Ok(length) => length as usize,
        Err(Errno::ENOTSUP) => return Ok(()),
        Err(error) => return Err(error),
    };
    let mut value = vec![0u8; 65536];
    for name in names[..length].split_inclusive(|byte| *byte == 0) {
        let name = std::ffi::CStr::from_bytes_with_nul(name).map_err(|_| Errno::EINVAL)?;
        // SAFETY: the name is a C string, the pointer and the length describe one live buffer.
        let read = unsafe {
            libc::fgetxattr(from.as_raw_fd(), name.as_ptr(), value.as_mut_ptr().cast(), value.len())
        };
        let size = Errno::result(read)? as usize;
        // SAFETY: as above; only what was just read is passed on.
        let written =
            unsafe { libc::fsetxattr(to.as_raw_fd(), name.as_ptr(), value.as_ptr().cast(), size, 0) };
        match Errno::result(written) {
            Ok(_) | Err(Errno::ENOTSUP | Errno::EPERM) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
