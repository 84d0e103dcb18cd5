//! Device nodes, default links and the terminal. Runs in init once the container's `/dev` is mounted; a terminal, in
//! every process that has one.

use std::ffi::CStr;
use std::os::fd::{AsFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::stat::{FileStat, Mode, SFlag, fstat, fstatat, mknodat};
use nix::sys::statfs::{FsType, fstatfs};
use nix::unistd::{Gid, Uid, fchownat, symlinkat};

use super::mounts::{Shape, last_component, make_parents, make_target};
use super::{Init, Outcome};
use crate::plan::{DeviceKind, Terminal};
use crate::sys::fd::{current_directory, duplicate_onto, inherited, is_null_device, send_with_fd};
use crate::sys::mount::{self, Depth};
use crate::sys::path::{open_beneath, open_in_root};
use crate::sys::terminal;

const DEVPTS_SUPER_MAGIC: FsType = FsType(0x1cd1);

/// A directory that is kept open from one step to the next.
pub struct Workplace<'a> {
    path: &'a [u8],
    directory: OwnedFd,
}

impl<'a> Init<'a> {
    /// The directory that holds the last component of `inside`, made if it is missing, and that component.
    fn workplace(&mut self, inside: &'a CStr) -> Result<(&OwnedFd, &'a CStr), Errno> {
        let bytes = inside.to_bytes();
        let path = &bytes[..bytes.iter().rposition(|byte| *byte == b'/').unwrap_or(0)];
        let kept = self.workplace.take().filter(|kept| kept.path == path);
        let directory = match kept {
            Some(kept) => kept.directory,
            None => make_parents(self.root()?, inside)?.0,
        };
        let name = last_component(inside)?;
        Ok((&self.workplace.insert(Workplace { path, directory }).directory, name))
    }

    pub fn device(
        &mut self,
        inside: &'a CStr,
        kind: DeviceKind,
        number: (u32, u32),
        mode: u32,
        owner: (u32, u32),
    ) -> Outcome {
        let (parent, name) = self.workplace(inside)?;
        let (format, device) = (format_of(kind), number_of(kind, number));
        match mknodat(parent, name, format, Mode::from_bits_truncate(mode), device) {
            Ok(()) => {}
            Err(Errno::EEXIST) => {
                let there = fstatat(parent, name, nix::fcntl::AtFlags::AT_SYMLINK_NOFOLLOW)?;
                if !is_device(&there, kind, number) {
                    return Err(Errno::EEXIST.into());
                }
            }
            Err(error) => return Err(error.into()),
        }
        if owner != (0, 0) {
            let (uid, gid) = (Uid::from_raw(owner.0), Gid::from_raw(owner.1));
            fchownat(parent, name, Some(uid), Some(gid), nix::fcntl::AtFlags::AT_SYMLINK_NOFOLLOW)?;
        }
        Ok(())
    }

    pub fn symlink(&mut self, inside: &'a CStr, to: &CStr, replace: bool) -> Outcome {
        let (parent, name) = self.workplace(inside)?;
        match symlinkat(to, parent, name) {
            Err(Errno::EEXIST) if replace => {
                use nix::unistd::{UnlinkatFlags, unlinkat};
                unlinkat(parent, name, UnlinkatFlags::NoRemoveDir)?;
                Ok(symlinkat(to, parent, name)?)
            }
            Err(Errno::EEXIST) => Ok(()),
            result => Ok(result?),
        }
    }

    /// Both ends come from the container's own devpts and from each other, by no path that it could have changed.
    pub fn terminal(&mut self, size: Option<Terminal>, owner: u32, console: bool) -> Outcome {
        let root = self.root.as_ref().map_or(current_directory(), AsFd::as_fd);
        let terminals = open_in_root(root, c"dev/pts", libc::O_PATH | libc::O_DIRECTORY, 0)?;
        if fstatfs(&terminals)?.filesystem_type() != DEVPTS_SUPER_MAGIC {
            return Err(Errno::ENODEV.into());
        }
        let master = open_beneath(terminals.as_fd(), c"ptmx", libc::O_RDWR | libc::O_NOCTTY)?;
        terminal::unlock(master.as_fd())?;
        let slave = terminal::peer(master.as_fd())?;
        if let Some(size) = size {
            terminal::resize(master.as_fd(), size.rows, size.columns)?;
        }
        nix::unistd::fchown(&slave, Some(Uid::from_raw(owner)), None)?;
        if console {
            let place = make_target(self.root()?, c"dev/console", Shape::File)?;
            let copy = mount::clone_tree(slave.as_fd(), c"", Depth::One, true)?;
            mount::attach(copy.as_fd(), place.as_fd())?;
        }
        let receiver = self.given.console.take().ok_or(Errno::EBADF)?;
        send_with_fd(receiver.as_fd(), b"/dev/pts/ptmx", master.as_fd())?;
        terminal::control(slave.as_fd())?;
        for stream in 0..=2 {
            duplicate_onto(slave.as_fd(), stream)?;
        }
        Ok(())
    }

    /// The host's null device on a standard stream is a way to look at the host's `/dev`.
    pub fn reopen_null(&self) -> Outcome {
        for stream in 0..=2 {
            let is_null = fstat(inherited(stream)).is_ok_and(|stat| is_null_device(&stat));
            if !is_null {
                continue;
            }
            let own = match open_in_root(self.root()?, c"dev/null", libc::O_PATH, 0) {
                Err(Errno::ENOENT | Errno::ENOTDIR | Errno::ELOOP) => return Ok(()),
                result => result?,
            };
            // A container that brings something else under this name keeps the host's (CVE-2026-88265), and what it
            // brings is not even opened.
            if !is_null_device(&fstat(&own)?) {
                return Ok(());
            }
            let own = match self.procfs()?.reopen(own.as_fd(), libc::O_RDWR) {
                // A root that lies on a `nodev` mount, with nothing mounted on its `/dev`, has nodes that open to nobody.
                Err(Errno::EACCES) => return Ok(()),
                result => result?,
            };
            duplicate_onto(own.as_fd(), stream)?;
        }
        Ok(())
    }
}

fn format_of(kind: DeviceKind) -> SFlag {
    match kind {
        DeviceKind::Character => SFlag::S_IFCHR,
        DeviceKind::Block => SFlag::S_IFBLK,
        DeviceKind::Fifo => SFlag::S_IFIFO,
    }
}

fn number_of(kind: DeviceKind, (major, minor): (u32, u32)) -> libc::dev_t {
    if kind == DeviceKind::Fifo { 0 } else { libc::makedev(major, minor) }
}

/// Whether a file is this device, of major and minor number.
pub fn is_device(stat: &FileStat, kind: DeviceKind, number: (u32, u32)) -> bool {
    let format = SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT;
    format == format_of(kind) && stat.st_rdev == number_of(kind, number)
}
