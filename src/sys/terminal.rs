//! Pseudo-terminals (pty(7)).

use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use nix::errno::Errno;

use super::checked;

/// Unlock the master's peer, which a new pair has locked (TIOCSPTLCK).
pub fn unlock(master: BorrowedFd<'_>) -> Result<(), Errno> {
    let unlocked: libc::c_int = 0;
    // SAFETY: the argument points to one live integer.
    checked(unsafe { libc::ioctl(master.as_raw_fd(), libc::TIOCSPTLCK, &unlocked) }.into())?;
    Ok(())
}

/// The terminal that belongs to `master`, by no path (TIOCGPTPEER; CVE-2025-52565).
pub fn peer(master: BorrowedFd<'_>) -> Result<OwnedFd, Errno> {
    let flags = libc::O_RDWR | libc::O_NOCTTY | libc::O_CLOEXEC;
    // SAFETY: the argument is a plain integer.
    let fd = checked(unsafe { libc::ioctl(master.as_raw_fd(), libc::TIOCGPTPEER, flags) }.into())?;
    // SAFETY: the kernel has just given us this descriptor, and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

/// Make `terminal` the controlling terminal of this session (TIOCSCTTY).
pub fn control(terminal: BorrowedFd<'_>) -> Result<(), Errno> {
    // SAFETY: the argument is a plain integer.
    checked(unsafe { libc::ioctl(terminal.as_raw_fd(), libc::TIOCSCTTY, 0) }.into())?;
    Ok(())
}

/// Rows and columns (TIOCGWINSZ).
pub fn size(terminal: BorrowedFd<'_>) -> Result<(u16, u16), Errno> {
    let mut size = libc::winsize { ws_row: 0, ws_col: 0, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: the argument points to one live `winsize`, which the kernel fills.
    checked(unsafe { libc::ioctl(terminal.as_raw_fd(), libc::TIOCGWINSZ, &mut size) }.into())?;
    Ok((size.ws_row, size.ws_col))
}

/// Set rows and columns (TIOCSWINSZ); the foreground group gets SIGWINCH.
pub fn resize(terminal: BorrowedFd<'_>, rows: u16, columns: u16) -> Result<(), Errno> {
    let size = libc::winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: the argument points to one live `winsize`.
    checked(unsafe { libc::ioctl(terminal.as_raw_fd(), libc::TIOCSWINSZ, &size) }.into())?;
    Ok(())
}
