//! Copies what a directory of the root holds into the new filesystem that is about to cover it (`tmpcopyup`).
//!
//! Runs in init, before the mount is attached. Descriptors only, no link is followed; ownership, modes and extended
//! attributes come along.

use std::ffi::CStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, openat, readlinkat};
use nix::sys::stat::{FileStat, Mode, SFlag, fchmod, fstatat, mkdirat, mknodat};
use nix::unistd::{Gid, Uid, fchownat, symlinkat};

/// Directories deeper than this are an error, so that no image can exhaust our stack or descriptors.
const DEPTH_LIMIT: usize = 128;

/// Copy the content of directory `from` to directory `to`; both may be `O_PATH`.
pub fn content(from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> Result<(), Errno> {
    let from = openat(from, c".", DIRECTORY, Mode::empty())?;
    let to = openat(to, c".", DIRECTORY, Mode::empty())?;
    entries(from, &to, 0)
}

/// Make a link like the one that `link` is open on; one that is there already stays.
pub fn symlink(link: BorrowedFd<'_>, parent: BorrowedFd<'_>, name: &CStr) -> Result<(), Errno> {
    match symlinkat(readlinkat(link, c"")?.as_os_str(), parent, name) {
        Err(Errno::EEXIST) => Ok(()),
        result => result,
    }
}

const DIRECTORY: OFlag =
    OFlag::O_RDONLY.union(OFlag::O_DIRECTORY).union(OFlag::O_NOFOLLOW).union(OFlag::O_CLOEXEC);

fn entries(from: OwnedFd, to: &OwnedFd, depth: usize) -> Result<(), Errno> {
    if depth == DEPTH_LIMIT {
        return Err(Errno::ELOOP);
    }
    let mut listed = Dir::from_fd(from.try_clone().map_err(|_| Errno::EMFILE)?)?;
    for entry in listed.iter() {
        let entry = entry?;
        let name = entry.file_name();
        if name != c"." && name != c".." {
            copy_entry(&from, to, name, depth)?;
        }
    }
    Ok(())
}

fn copy_entry(from: &OwnedFd, to: &OwnedFd, name: &CStr, depth: usize) -> Result<(), Errno> {
    let stat = fstatat(from, name, AtFlags::AT_SYMLINK_NOFOLLOW)?;
    let mode = Mode::from_bits_truncate(stat.st_mode & 0o7777);
    let kind = SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT;
    match kind {
        SFlag::S_IFDIR => {
            mkdirat(to, name, mode)?;
            let inner = openat(to, name, DIRECTORY, Mode::empty())?;
            entries(openat(from, name, DIRECTORY, Mode::empty())?, &inner, depth + 1)?;
            own(inner.as_fd(), c"", &stat)?;
            permit(&inner, &stat)
        }
        SFlag::S_IFREG => regular(from, to, name, &stat),
        SFlag::S_IFLNK => {
            symlinkat(readlinkat(from, name)?.as_os_str(), to, name)?;
            own(to.as_fd(), name, &stat)
        }
        _ => {
            mknodat(to, name, kind, mode, stat.st_rdev)?;
            own(to.as_fd(), name, &stat)
        }
    }
}

fn regular(from: &OwnedFd, to: &OwnedFd, name: &CStr, stat: &FileStat) -> Result<(), Errno> {
    let read = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
    let source = openat(from, name, read, Mode::empty())?;
    let write = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let copy = openat(to, name, write, Mode::S_IRUSR | Mode::S_IWUSR)?;
    let mut left = stat.st_size as usize;
    while left > 0 {
        match nix::sys::sendfile::sendfile(&copy, &source, None, left)? {
            0 => break,
            sent => left -= sent,
        }
    }
    crate::sys::fd::copy_extended_attributes(source.as_fd(), copy.as_fd())?;
    own(copy.as_fd(), c"", stat)?;
    permit(&copy, stat)
}

/// After it has its owner: changing that takes set-user-ID bits away.
fn permit(place: &OwnedFd, stat: &FileStat) -> Result<(), Errno> {
    fchmod(place, Mode::from_bits_truncate(stat.st_mode & 0o7777))
}

pub fn own(place: BorrowedFd<'_>, name: &CStr, stat: &FileStat) -> Result<(), Errno> {
    let (uid, gid) = (Uid::from_raw(stat.st_uid), Gid::from_raw(stat.st_gid));
    let flags = AtFlags::AT_EMPTY_PATH | AtFlags::AT_SYMLINK_NOFOLLOW;
    fchownat(place, name, Some(uid), Some(gid), flags)
}
