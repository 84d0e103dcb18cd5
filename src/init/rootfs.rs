//! The container's root: put in its place, covered where it must be, and entered.
//!
//! Runs in init, between the namespaces and the process. Everything is reached through the root's descriptor, and the
//! pivot comes last, so the host's `/dev/null` and procfs are at hand until nothing more is covered.

use std::ffi::CStr;
use std::os::fd::{AsFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::sys::stat::{Mode, fstat};

use super::mounts::{Shape, make_parents, propagate};
use super::{Init, Outcome};
use crate::plan::Slot;
use crate::sys::fd::is_null_device;
use crate::sys::fd::write_once;
use crate::sys::mount::{self, Attributes, Depth, attr};
use crate::sys::path::open_in_root;

/// What masked paths are covered with: one device and one empty directory for all of them, since every filesystem
/// of its own costs at birth and at death.
#[derive(Default)]
pub struct Mask {
    null: Option<OwnedFd>,
    empty: Option<OwnedFd>,
}

const READ_ONLY: Attributes = Attributes { set: attr::RDONLY, clear: 0, propagation: 0, userns_fd: 0 };

impl Init<'_> {
    pub fn mount_root(&mut self, slot: Slot, path: &CStr, propagation: u64) -> Outcome {
        let tree = self.given.slots.get_mut(slot.0).and_then(Option::take).ok_or(Errno::EBADF)?;
        match propagation & !libc::MS_REC {
            // A mount namespace that is not ours to change.
            0 => {}
            libc::MS_SHARED => privatise_parent(path)?,
            kind => {
                mount::set_propagation_of_root(kind)?;
                self.propagation = kind;
            }
        }
        // pivot_root(2) refuses a root that is shared. A slave of it still sees what the host mounts there.
        let own = if self.propagation == libc::MS_PRIVATE { libc::MS_PRIVATE } else { libc::MS_SLAVE };
        propagate(tree.as_fd(), own | libc::MS_REC)?;
        let place = open(path, OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty())?;
        mount::attach(tree.as_fd(), place.as_fd())?;
        self.root = Some(tree);
        Ok(())
    }

    pub fn read_only_root(&self) -> Outcome {
        Ok(mount::set_attributes(self.root()?, &READ_ONLY, Depth::One)?)
    }

    pub fn read_only_mount(&self, slot: Slot) -> Outcome {
        Ok(mount::set_attributes(self.slot(slot)?, &READ_ONLY, Depth::One)?)
    }

    /// A path that is not there needs no protection.
    pub fn read_only_path(&self, inside: &CStr) -> Outcome {
        let target = match open_in_root(self.root()?, inside, libc::O_PATH, 0) {
            Err(Errno::ENOENT | Errno::ENOTDIR) => return Ok(()),
            result => result?,
        };
        let copy = mount::clone_tree(target.as_fd(), c"", Depth::Recursive, true)?;
        mount::set_attributes(copy.as_fd(), &READ_ONLY, Depth::One)?;
        Ok(mount::attach(copy.as_fd(), target.as_fd())?)
    }

    /// A path that is not there hides nothing.
    pub fn mask(&mut self, inside: &CStr) -> Outcome {
        let target = match open_in_root(self.root()?, inside, libc::O_PATH, 0) {
            Err(Errno::ENOENT | Errno::ENOTDIR) => return Ok(()),
            result => result?,
        };
        let cover = match Shape::of(&fstat(&target)?) {
            Shape::File | Shape::Link => self.mask.null()?,
            Shape::Directory => self.mask.empty()?,
        };
        mount::attach(cover.as_fd(), target.as_fd())?;
        if self.mask.empty.is_none() && Shape::of(&fstat(&cover)?) == Shape::Directory {
            self.mask.empty = Some(cover);
        }
        Ok(())
    }

    /// Write below `/proc/sys` of the host's procfs, which shows each process the values of its own namespaces.
    pub fn sysctl(&self, path: &CStr, value: &CStr) -> Outcome {
        let file = self.procfs()?.sysctl(path)?;
        Ok(write_once(file.as_fd(), value.to_bytes())?)
    }

    pub fn make_directory(&self, inside: &CStr, mode: u32) -> Outcome {
        match open_in_root(self.root()?, inside, libc::O_PATH | libc::O_DIRECTORY, 0) {
            Err(Errno::ENOENT) => {}
            result => return Ok(result.map(drop)?),
        }
        let (parent, name) = make_parents(self.root()?, inside)?;
        Ok(nix::sys::stat::mkdirat(parent, name, Mode::from_bits_truncate(mode))?)
    }

    /// The new root goes below the old one, which is then taken off.
    pub fn pivot(&mut self) -> Outcome {
        let old = open(c"/", OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty())?;
        nix::unistd::fchdir(self.root()?)?;
        mount::pivot_to_cwd()?;
        nix::unistd::fchdir(&old)?;
        if self.propagation == 0 {
            // What is unmounted here must not be unmounted on the host.
            propagate(old.as_fd(), libc::MS_SLAVE | libc::MS_REC)?;
        }
        mount::detach_cwd()?;
        Ok(nix::unistd::chdir(c"/")?)
    }

    /// For a host whose root is a ramdisk, which cannot be pivoted away (`--no-pivot`).
    pub fn move_root(&mut self) -> Outcome {
        let place = open(c"/", OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty())?;
        if self.propagation == 0 {
            // What is mounted on it must not be mounted on the host's `/`.
            propagate(place.as_fd(), libc::MS_PRIVATE)?;
        }
        mount::attach(self.root()?, place.as_fd())?;
        self.chroot()
    }

    pub fn chroot(&mut self) -> Outcome {
        nix::unistd::fchdir(self.root()?)?;
        nix::unistd::chroot(c".")?;
        Ok(nix::unistd::chdir(c"/")?)
    }

    pub fn root_propagation(&self, flags: u64) -> Outcome {
        propagate(self.root()?, flags)
    }
}

impl Mask {
    /// The device, from the host's `/dev`: what the container has in its own may be anything (CVE-2025-31133).
    fn null(&mut self) -> Result<OwnedFd, Errno> {
        if self.null.is_none() {
            let null = open(c"/dev/null", OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty())?;
            if !is_null_device(&fstat(&null)?) {
                return Err(Errno::ENODEV);
            }
            self.null = Some(null);
        }
        let null = self.null.as_ref().ok_or(Errno::EBADF)?;
        mount::clone_tree(null.as_fd(), c"", Depth::One, true)
    }

    /// A copy of the first empty directory, once that is attached (older kernels do not copy what is not).
    fn empty(&self) -> Result<OwnedFd, Errno> {
        match &self.empty {
            Some(first) => mount::clone_tree(first.as_fd(), c"", Depth::One, true),
            None => empty_directory(),
        }
    }
}

/// A filesystem with room for nothing but its root.
fn empty_directory() -> Result<OwnedFd, Errno> {
    let parameters = [(c"nr_blocks", c"1"), (c"nr_inodes", c"1"), (c"mode", c"555")];
    let context = mount::open_filesystem(c"tmpfs")?;
    for (key, value) in parameters {
        mount::set_text(context.as_fd(), key, value)?;
    }
    mount::make_mount(context.as_fd(), attr::RDONLY | attr::NOSUID | attr::NODEV | attr::NOEXEC)
}

/// Keep the setup from showing elsewhere when the root is to stay shared: the mount that holds the root's place
/// becomes private. Only the root of a mount takes an attribute, so the first that does, going up, is it.
fn privatise_parent(path: &CStr) -> Outcome {
    let private = Attributes { propagation: libc::MS_PRIVATE, ..Attributes::default() };
    let mut place = open(path, OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty())?;
    loop {
        match mount::set_attributes(place.as_fd(), &private, Depth::One) {
            Err(Errno::EINVAL) => {}
            result => return Ok(result?),
        }
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let above = nix::fcntl::openat(&place, c"..", flags, Mode::empty())?;
        let (here, there) = (fstat(&place)?, fstat(&above)?);
        if (here.st_dev, here.st_ino) == (there.st_dev, there.st_ino) {
            return Err(Errno::EINVAL.into());
        }
        place = above;
    }
}
