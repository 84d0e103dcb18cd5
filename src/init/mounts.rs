//! Mounts, inside. Runs in init, before the pivot. Knows descriptors and flags, not JSON.
//!
//! Every target is a descriptor that openat2(2) found below the container's root, and every mount is a descriptor
//! too, so no text of a container ever reaches mount(2).

use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;

use nix::errno::Errno;
use nix::fcntl::readlinkat;
use nix::sys::stat::{FchmodatFlags, FileStat, Mode, SFlag, fchmodat, fstat};
use nix::sys::statfs::{PROC_SUPER_MAGIC, fstatfs};

use super::devices::is_device;
use super::{Failure, Init, Outcome, copy};
use crate::plan::{Mount, MountWhat, Parameter, Slot};
use crate::sys::fd::current_directory;
use crate::sys::mount::{self, Attributes, Depth};
use crate::sys::path::open_in_root;
use crate::wire::Note;

/// What a mount's target must be, so that the kernel takes it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    Directory,
    File,
    Link,
}

impl Shape {
    pub fn of(stat: &FileStat) -> Shape {
        match SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT {
            SFlag::S_IFDIR => Shape::Directory,
            SFlag::S_IFLNK => Shape::Link,
            _ => Shape::File,
        }
    }

    fn flags(self) -> i32 {
        if self == Shape::Directory { libc::O_DIRECTORY } else { 0 }
    }
}

impl Init<'_> {
    pub fn open_tree(&mut self, slot: Slot, source: &CStr, recursive: bool, follow: bool) -> Outcome {
        let depth = if recursive { Depth::Recursive } else { Depth::One };
        let tree = mount::clone_tree(current_directory(), source, depth, follow)?;
        self.fill(slot, tree)
    }

    pub fn mount(&mut self, plan: &Mount) -> Outcome {
        let (detached, shape) = match &plan.what {
            MountWhat::Filesystem { kind, parameters } => {
                (new_filesystem(kind, parameters, plan.set)?, Shape::Directory)
            }
            MountWhat::Tree { slot } => self.tree(*slot, plan)?,
            MountWhat::Device { slot, kind, major, minor } => {
                let (tree, shape) = self.tree(*slot, plan)?;
                if !is_device(&fstat(&tree)?, *kind, (*major, *minor)) {
                    let note = Note::new(b"what the host has there is another device or none");
                    return Err(Failure::Step(Errno::ENODEV, note));
                }
                (tree, shape)
            }
            MountWhat::FilesystemOrTree { kind, parameters, slot } => {
                match new_filesystem(kind, parameters, plan.set) {
                    Ok(made) => (made, Shape::Directory),
                    Err(Failure::Step(Errno::EPERM, _)) => self.tree(*slot, plan)?,
                    Err(failure) => return Err(failure),
                }
            }
            MountWhat::Remount { parameters } => return self.remount(plan, parameters),
        };
        if plan.copy_symlink && shape == Shape::Link {
            let (parent, name) = make_parents(self.root()?, &plan.inside)?;
            return Ok(copy::symlink(detached.as_fd(), parent.as_fd(), name)?);
        }
        let target = match self.find_target(&plan.inside, shape, plan.follow)? {
            Some(target) => {
                let stat = fstat(&target)?;
                if plan.adopt_owner {
                    copy::own(detached.as_fd(), c".", &stat)?;
                }
                if plan.adopt_mode {
                    let mode = Mode::from_bits_truncate(stat.st_mode & 0o7777);
                    let flags = FchmodatFlags::FollowSymlink;
                    fchmodat(&detached, c".", mode, flags)?;
                }
                target
            }
            None => make_target(self.root()?, &plan.inside, shape)?,
        };
        refuse_procfs(target.as_fd(), plan)?;
        if plan.copy_up {
            copy::content(target.as_fd(), detached.as_fd())?;
        }
        if plan.set_recursive != 0 || plan.clear_recursive != 0 {
            let attributes =
                Attributes { set: plan.set_recursive, clear: plan.clear_recursive, ..Attributes::default() };
            change(detached.as_fd(), attributes, Depth::Recursive)?;
        }
        mount::attach(detached.as_fd(), target.as_fd())?;
        for flags in &plan.propagation {
            propagate(detached.as_fd(), *flags)?;
        }
        match plan.keep {
            Some(slot) => self.fill(slot, detached),
            None => Ok(()),
        }
    }

    /// Change what is mounted at the target already.
    fn remount(&self, plan: &Mount, parameters: &[Parameter]) -> Outcome {
        let target = open_in_root(self.root()?, &plan.inside, libc::O_PATH, 0)?;
        refuse_procfs(target.as_fd(), plan)?;
        if !parameters.is_empty() {
            let context = mount::pick_filesystem(target.as_fd())?;
            configure(context.as_fd(), parameters, mount::reconfigure)?;
        }
        let one = Attributes { set: plan.set, clear: plan.clear, ..Attributes::default() };
        change(target.as_fd(), one, Depth::One)?;
        let all =
            Attributes { set: plan.set_recursive, clear: plan.clear_recursive, ..Attributes::default() };
        Ok(change(target.as_fd(), all, Depth::Recursive)?)
    }

    /// A tree that was opened outside, with the attributes and the propagation that it has inside.
    fn tree(&mut self, slot: Slot, plan: &Mount) -> Result<(OwnedFd, Shape), Failure> {
        let tree = self.given.slots.get_mut(slot.0).and_then(Option::take).ok_or(Errno::EBADF)?;
        if self.propagation != 0 {
            let attributes = Attributes { propagation: self.propagation, ..Attributes::default() };
            mount::set_attributes(tree.as_fd(), &attributes, Depth::Recursive)?;
        }
        if plan.set != 0 || plan.clear != 0 {
            let attributes = Attributes { set: plan.set, clear: plan.clear, ..Attributes::default() };
            change(tree.as_fd(), attributes, Depth::One)?;
        }
        let shape = Shape::of(&fstat(&tree)?);
        Ok((tree, shape))
    }

    /// A mount's target below the root, if it is there.
    fn find_target(&self, inside: &CStr, shape: Shape, follow: bool) -> Result<Option<OwnedFd>, Errno> {
        let mut flags = libc::O_PATH | shape.flags();
        if !follow {
            flags |= libc::O_NOFOLLOW;
        }
        match open_in_root(self.root()?, inside, flags, 0) {
            Err(Errno::ENOENT) => Ok(None),
            result => result.map(Some),
        }
    }
}

/// Make a mount's target below `root`, and the directories above it.
pub fn make_target(root: BorrowedFd<'_>, inside: &CStr, shape: Shape) -> Result<OwnedFd, Errno> {
    let (parent, name) = make_parents(root, inside)?;
    match shape {
        Shape::Directory => make_directory_at(parent.as_fd(), name)?,
        Shape::File | Shape::Link => make_file_at(parent.as_fd(), name)?,
    }
    open_in_root(parent.as_fd(), name, libc::O_PATH | libc::O_NOFOLLOW | shape.flags(), 0)
}

/// What covers a file of procfs can lie to all who read it, and to us.
fn refuse_procfs(target: BorrowedFd<'_>, plan: &Mount) -> Outcome {
    if plan.onto_procfs || fstatfs(target)?.filesystem_type() != PROC_SUPER_MAGIC {
        return Ok(());
    }
    Err(Failure::Step(Errno::EPERM, Note::new(b"a symbolic link leads to a place inside /proc")))
}

/// Change flags. In a user namespace a mount that came from outside keeps those that it came with
/// (mount_namespaces(7)); engines ask for the opposite by default, so these stay and the rest is done.
fn change(mount: BorrowedFd<'_>, attributes: Attributes, depth: Depth) -> Result<(), Errno> {
    const ACCESS_TIMES: u64 = libc::MOUNT_ATTR__ATIME | libc::MOUNT_ATTR_NODIRATIME;
    match mount::set_attributes(mount, &attributes, depth) {
        Err(Errno::EPERM) => {
            let kept = Attributes { set: attributes.set & !ACCESS_TIMES, clear: 0, ..attributes };
            mount::set_attributes(mount, &kept, depth)
        }
        result => result,
    }
}

/// Set `MS_SHARED` and the like on a mount; with `MS_REC` on all below it.
pub fn propagate(mount: BorrowedFd<'_>, flags: u64) -> Outcome {
    let depth = if flags & libc::MS_REC == 0 { Depth::One } else { Depth::Recursive };
    let attributes = Attributes { propagation: flags & !libc::MS_REC, ..Attributes::default() };
    Ok(mount::set_attributes(mount, &attributes, depth)?)
}

fn new_filesystem(kind: &CStr, parameters: &[Parameter], set: u64) -> Result<OwnedFd, Failure> {
    let context = mount::open_filesystem(kind)?;
    configure(context.as_fd(), parameters, |context| mount::make_mount(context, set))
}

/// Give a context its parameters and finish it; a refusal comes with the kernel's own words.
fn configure<T>(
    context: BorrowedFd<'_>,
    parameters: &[Parameter],
    finish: impl FnOnce(BorrowedFd<'_>) -> Result<T, Errno>,
) -> Result<T, Failure> {
    let give = || {
        for parameter in parameters {
            match parameter {
                Parameter::Flag(key) => mount::set_flag(context, key)?,
                Parameter::Text(key, value) => mount::set_text(context, key, value)?,
            }
        }
        finish(context)
    };
    give().map_err(|error| {
        let mut message = [0; Note::CAPACITY];
        let length = mount::last_message(context, &mut message);
        Failure::Step(error, Note::new(&message[..length]))
    })
}

/// The directory that holds the last component of `inside`, with all missing ones made, and that component.
pub fn make_parents<'p>(root: BorrowedFd<'_>, inside: &'p CStr) -> Result<(OwnedFd, &'p CStr), Errno> {
    let name = last_component(inside)?;
    let bytes = inside.to_bytes();
    let name_start = bytes.len() - name.count_bytes();
    let directory_flags = libc::O_PATH | libc::O_DIRECTORY;
    if name_start <= 1 {
        return Ok((open_in_root(root, c".", directory_flags, 0)?, name));
    }
    let mut path = bytes[..name_start - 1].to_vec();
    path.push(0);
    let path = CStr::from_bytes_with_nul(&path).map_err(|_| Errno::EINVAL)?;
    Ok((make_directories(root, path, LINKS_LIMIT)?, name))
}

pub fn last_component(inside: &CStr) -> Result<&CStr, Errno> {
    let bytes = inside.to_bytes_with_nul();
    let start = bytes.iter().rposition(|byte| *byte == b'/').map_or(0, |slash| slash + 1);
    CStr::from_bytes_with_nul(&bytes[start..]).map_err(|_| Errno::EINVAL)
}

/// As many dangling links as this are followed, like the kernel's own limit (path_resolution(7)).
const LINKS_LIMIT: usize = 40;

/// Open a directory below the root, and make what is missing of it. A link that dangles leads to where it points to
/// below the root, and what it names is made there.
fn make_directories(root: BorrowedFd<'_>, path: &CStr, links: usize) -> Result<OwnedFd, Errno> {
    let flags = libc::O_PATH | libc::O_DIRECTORY;
    match open_in_root(root, path, flags, 0) {
        Err(Errno::ENOENT) => {}
        result => return result,
    }
    let (parent, name) = make_parents(root, path)?;
    make_directory_at(parent.as_fd(), name)?;
    match open_in_root(parent.as_fd(), name, flags | libc::O_NOFOLLOW, 0) {
        // A link, since something is there and it is no directory.
        Err(Errno::ENOTDIR) if links > 0 => {
            let to = readlinkat(&parent, name).map_err(|_| Errno::ENOTDIR)?.into_vec();
            let mut place = match to.first() {
                Some(b'/') => Vec::new(),
                _ => path.to_bytes()[..path.to_bytes().len() - name.count_bytes()].to_vec(),
            };
            place.extend(to);
            let place = CString::new(place).map_err(|_| Errno::EINVAL)?;
            make_directories(root, &place, links - 1)
        }
        result => result,
    }
}

fn make_directory_at(parent: BorrowedFd<'_>, name: &CStr) -> Result<(), Errno> {
    use nix::sys::stat::mkdirat;
    match mkdirat(parent, name, Mode::from_bits_truncate(0o755)) {
        Err(Errno::EEXIST) => Ok(()),
        result => result,
    }
}

fn make_file_at(parent: BorrowedFd<'_>, name: &CStr) -> Result<(), Errno> {
    let flags = libc::O_CREAT | libc::O_EXCL | libc::O_NOFOLLOW | libc::O_WRONLY;
    match open_in_root(parent, name, flags, 0o644) {
        Ok(_) | Err(Errno::EEXIST) => Ok(()),
        Err(error) => Err(error),
    }
}
