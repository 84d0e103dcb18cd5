//! A procfs that is one (CVE-2019-16884, CVE-2025-52881): every write of ours to procfs goes through here.

use std::ffi::CStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::sys::stat::Mode;
use nix::sys::statfs::{PROC_SUPER_MAGIC, fstatfs};

use super::fd::write_once;
use super::path::{open_beneath, open_descriptor, open_in_one_mount};

/// The host's `/proc`, opened before any container had a say, and checked to be a procfs.
#[derive(Debug)]
pub struct Procfs(OwnedFd);

impl AsFd for Procfs {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Procfs {
    /// Open `/proc` as this process sees it; ENOTSUP when it is not a procfs.
    pub fn open() -> Result<Procfs, Errno> {
        const ROOT_INODE: u64 = 1;
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let directory = open(c"/proc", flags, Mode::empty())?;
        let is_procfs = fstatfs(&directory)?.filesystem_type() == PROC_SUPER_MAGIC;
        if !is_procfs || nix::sys::stat::fstat(&directory)?.st_ino != ROOT_INODE {
            return Err(Errno::ENOTSUP);
        }
        Ok(Procfs(directory))
    }

    /// Open a file of it: no symbolic link is followed and nothing mounted on it is entered.
    pub fn file(&self, path: &CStr, flags: libc::c_int) -> Result<OwnedFd, Errno> {
        open_beneath(self.0.as_fd(), path, flags)
    }

    /// Open a file below `self` or `thread-self`, the two links that procfs itself makes.
    pub fn own_file(&self, path: &CStr, flags: libc::c_int) -> Result<OwnedFd, Errno> {
        open_in_one_mount(self.0.as_fd(), path, flags)
    }

    /// Open for use what `file` is open on as a place only (`O_PATH`), so that it can be looked at first.
    pub fn reopen(&self, file: BorrowedFd<'_>, flags: libc::c_int) -> Result<OwnedFd, Errno> {
        let own = self.own_file(c"self/fd", libc::O_PATH | libc::O_DIRECTORY)?;
        open_descriptor(own.as_fd(), file, flags)
    }

    /// Open a kernel parameter for writing; `path` is relative to `/proc/sys`.
    pub fn sysctl(&self, path: &CStr) -> Result<OwnedFd, Errno> {
        let parameters = self.file(c"sys", libc::O_PATH | libc::O_DIRECTORY)?;
        open_beneath(parameters.as_fd(), path, libc::O_WRONLY)
    }

    /// Write `text` to a file, in one call.
    pub fn write(&self, path: &CStr, text: &[u8]) -> Result<(), Errno> {
        write_once(self.file(path, libc::O_WRONLY)?.as_fd(), text)
    }
}
