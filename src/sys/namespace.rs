//! Namespaces (namespaces(7)): the loopback device of a new network one, and what type a file is of.

use std::os::fd::{AsRawFd, BorrowedFd};

use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};

use super::checked;

const NS_GET_NSTYPE: libc::Ioctl = 0xb703;

/// The `CLONE_NEW*` flag of the namespace that `fd` is open on (ioctl_ns(2)); ENOTTY for anything else.
pub fn kind(fd: BorrowedFd<'_>) -> Result<i32, Errno> {
    // SAFETY: this request takes no argument.
    checked(unsafe { libc::ioctl(fd.as_raw_fd(), NS_GET_NSTYPE) }.into()).map(|flag| flag as i32)
}

/// Bring up the device `lo` (netdevice(7)).
pub fn loopback_up() -> Result<(), Errno> {
    let control = socket(AddressFamily::Inet, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)?;
    // SAFETY: all bytes zero is a valid `ifreq`.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(b"lo") {
        *to = *from as libc::c_char;
    }
    request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
    // SAFETY: the request is a live `ifreq` with a terminated name.
    checked(unsafe { libc::ioctl(control.as_raw_fd(), libc::SIOCSIFFLAGS as libc::Ioctl, &request) }.into())?;
    Ok(())
}
