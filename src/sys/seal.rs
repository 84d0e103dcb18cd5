//! Keeps containers from writing to our executable (CVE-2019-5736).
//!
//! A container can reach the file of any process in it through `/proc/PID/exe`, and ours is one until execve(2).
//! So the runtime first executes itself once more from a detached, read-only copy of the mount that the file is on.
//! What is reached through that mount cannot be written, by nobody and at no time.

use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;

use nix::errno::Errno;
use nix::fcntl::{OFlag, SealFlag, open, readlink};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::stat::Mode;
use nix::sys::statfs::statfs;
use nix::sys::statvfs::FsFlags;

use super::fd::current_directory;
use super::mount::{Attributes, Depth, attr, clone_tree, set_attributes};

/// Each waits for some tenths of a second.
const TRIES_TO_SEAL: usize = 50;

const OWN_EXECUTABLE: &CStr = c"/proc/self/exe";

/// Return when this process already runs from a sealed file; else replace it by one that does.
pub fn seal() -> Result<(), Errno> {
    if is_sealed()? {
        return Ok(());
    }
    let copy = read_only_mount().or_else(|_| sealed_memory())?;
    Err(execute(copy.as_fd()))
}

fn is_sealed() -> Result<bool, Errno> {
    // A mount somewhere may be made writable again. Of a detached one of a single file the root is called `/`, as no file is
    // that is anywhere.
    if statfs(OWN_EXECUTABLE)?.flags().contains(FsFlags::ST_RDONLY) && readlink(OWN_EXECUTABLE)? == "/" {
        return Ok(true);
    }
    // Only a memfd can have seals; any other file answers EINVAL. Seals need a real descriptor, not an O_PATH one.
    let readable = open(OWN_EXECUTABLE, OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty())?;
    let seals = nix::fcntl::fcntl(&readable, nix::fcntl::FcntlArg::F_GET_SEALS).unwrap_or(0);
    Ok(SealFlag::from_bits_truncate(seals).contains(SealFlag::F_SEAL_WRITE))
}

fn read_only_mount() -> Result<OwnedFd, Errno> {
    let tree = clone_tree(current_directory(), OWN_EXECUTABLE, Depth::One, true)?;
    let read_only = Attributes { set: attr::RDONLY, ..Attributes::default() };
    set_attributes(tree.as_fd(), &read_only, Depth::One)?;
    Ok(tree)
}

/// For those who may not mount.
fn sealed_memory() -> Result<OwnedFd, Errno> {
    let source = open(OWN_EXECUTABLE, OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty())?;
    let copy = memfd_create(c"corten", MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING)?;
    let mut left = nix::sys::stat::fstat(&source)?.st_size as usize;
    while left > 0 {
        match nix::sys::sendfile::sendfile(&copy, &source, None, left)? {
            0 => return Err(Errno::EIO),
            sent => left -= sent,
        }
    }
    let seals =
        SealFlag::F_SEAL_WRITE | SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_SEAL;
    // The kernel may still hold a page that it has just written, on a processor that is busy otherwise.
    for _ in 0..TRIES_TO_SEAL {
        match nix::fcntl::fcntl(&copy, nix::fcntl::FcntlArg::F_ADD_SEALS(seals)) {
            Err(Errno::EBUSY) => {}
            result => return result.map(|_| copy),
        }
    }
    Err(Errno::EBUSY)
}

fn execute(file: BorrowedFd<'_>) -> Errno {
    let text = |word: std::ffi::OsString| CString::new(word.into_vec()).map_err(|_| Errno::EINVAL);
    let arguments: Result<Vec<CString>, Errno> = super::start::arguments().map(text).collect();
    let environment: Result<Vec<CString>, Errno> = std::env::vars_os()
        .map(|(mut name, value)| {
            name.push("=");
            name.push(value);
            text(name)
        })
        .collect();
    let (arguments, environment) = match (arguments, environment) {
        (Ok(arguments), Ok(environment)) => (arguments, environment),
        (Err(error), _) | (_, Err(error)) => return error,
    };
    // execveat(2) of an O_CLOEXEC descriptor is refused only for scripts.
    let Err(error) =
        nix::unistd::execveat(file, c"", &arguments, &environment, nix::fcntl::AtFlags::AT_EMPTY_PATH);
    error
}
