//! One directory in one hierarchy: making it, its files, the processes in and below it, removing it.
//!
//! Runs outside. Knows nothing of what the files mean. Paths are relative to one descriptor of the mount root.

use std::ffi::OsStr;
use std::fs::{self, File, TryLockError};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use anyhow::{Context, Result, bail, ensure};
use nix::dir::{Dir, Type};
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, open, openat};
use nix::sys::stat::{FileStat, Mode, fstatat, mkdirat};
use nix::unistd::{Pid, UnlinkatFlags, fchownat, read, unlinkat, write};

use super::wait::Deadline;
use crate::plan::cgroup::Place;
use crate::sys::process::open_pidfd;

/// Where all hierarchies are mounted.
pub struct Root {
    fd: OwnedFd,
    path: PathBuf,
}

pub struct Group {
    root: Rc<Root>,
    place: Place,
    /// Relative to the root.
    path: PathBuf,
    /// Somebody came between our look and our mkdir(2) or lock, so it is theirs.
    lost: bool,
}

/// Nobody else makes a container in the group until this is dropped.
pub type Claim = File;

/// A file that stays open for several writes.
pub struct Writer {
    fd: OwnedFd,
    path: PathBuf,
}

impl Root {
    pub fn open(path: &Path) -> Result<Rc<Root>> {
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let fd = open(path, flags, Mode::empty()).with_context(|| format!("open {}", path.display()))?;
        Ok(Rc::new(Root { fd, path: path.to_owned() }))
    }

    /// How many leading components of `path` exist below a mount point.
    pub fn survey(&self, mount_point: &Path, path: &Path) -> Result<usize> {
        let depth = path.components().count();
        for (missing, ancestor) in path.ancestors().take(depth).enumerate() {
            let ancestor = mount_point.join(ancestor);
            match fstatat(&self.fd, &ancestor, AtFlags::AT_SYMLINK_NOFOLLOW) {
                Ok(_) => return Ok(depth - missing),
                Err(Errno::ENOENT) => {}
                Err(errno) => {
                    let path = self.path.join(ancestor);
                    return Err(errno).with_context(|| format!("look at {}", path.display()));
                }
            }
        }
        Ok(0)
    }
}

impl Group {
    pub fn new(root: &Rc<Root>, place: Place) -> Group {
        let path = place.hierarchy.directory.join(&place.path);
        Group { root: Rc::clone(root), place, path, lost: false }
    }

    pub fn place(&self) -> &Place {
        &self.place
    }

    pub fn controls(&self, controller: &str) -> bool {
        self.place.hierarchy.controllers.iter().any(|name| name == controller)
    }

    pub fn path(&self) -> PathBuf {
        self.root.path.join(&self.path)
    }

    pub fn root_path(&self) -> PathBuf {
        self.root.path.clone()
    }

    pub fn exists(&self) -> bool {
        self.status().is_ok()
    }

    pub fn is_lost(&self) -> bool {
        self.lost
    }

    /// Take what is there already for given.
    pub fn find(&mut self) -> Result<()> {
        self.place.found = self.root.survey(&self.place.hierarchy.directory, &self.place.path)?;
        Ok(())
    }

    /// Whether it was there before the container.
    pub fn is_found(&self) -> bool {
        self.place.found == self.place.depth()
    }

    /// The groups above this one, from the hierarchy's root down.
    pub fn ancestors(&self) -> impl Iterator<Item = Group> {
        (0..self.place.depth()).map(|depth| self.ancestor(depth))
    }

    fn ancestor(&self, depth: usize) -> Group {
        let path = self.place.path.components().take(depth).collect();
        let found = self.place.found.min(depth);
        Group::new(&self.root, Place { hierarchy: self.place.hierarchy.clone(), path, found })
    }

    /// A group of this one's, at any depth; nothing is known of it yet.
    pub fn below(&self, name: &Path) -> Group {
        let path = self.place.path.join(name);
        Group::new(&self.root, Place { hierarchy: self.place.hierarchy.clone(), path, found: 0 })
    }

    /// Make the directory, and those above it that are missing; `made` is told each one, from the top.
    pub fn make(&mut self, made: impl Fn(&Group) -> Result<()>) -> Result<()> {
        self.lost = self.is_found() && !self.exists();
        self.check_possession("removed")?;
        for depth in self.place.found + 1..=self.place.depth() {
            let group = self.ancestor(depth);
            match mkdirat(&self.root.fd, &group.path, Mode::from_bits_truncate(0o755)) {
                Ok(()) => made(&group)?,
                // Another container has just made the parent that both want: it is not ours to remove.
                Err(Errno::EEXIST) if depth < self.place.depth() => self.place.found = depth,
                Err(errno) => {
                    self.lost = errno == Errno::EEXIST;
                    self.check_possession("made")?;
                    return Err(errno).with_context(|| format!("make {}", group.path().display()));
                }
            }
        }
        Ok(())
    }

    /// Keep others from taking it for an unused group until there is a process in it.
    pub fn claim(&mut self) -> Result<Claim> {
        let directory = self.open(Path::new(""), OFlag::O_RDONLY | OFlag::O_DIRECTORY);
        self.lost = matches!(directory, Err(Errno::ENOENT));
        self.check_possession("removed")?;
        let claim = File::from(directory.with_context(|| format!("open {}", self.path().display()))?);
        match claim.try_lock() {
            Err(TryLockError::Error(error)) => {
                return Err(error).with_context(|| format!("lock {}", self.path().display()));
            }
            locked => self.lost = locked.is_err(),
        }
        self.check_possession("taken")?;
        // Those who were there before us have let go of it since we looked, and may have removed it before they did.
        self.lost = !self.is_at_its_path(&claim)?;
        self.check_possession("removed")?;
        if self.is_found() {
            self.refuse_processes().inspect_err(|_| self.lost = true)?;
        }
        Ok(claim)
    }

    fn is_at_its_path(&self, directory: &File) -> Result<bool> {
        let path = || self.path().display().to_string();
        let own = directory.metadata().with_context(path)?;
        match self.status() {
            Err(Errno::ENOENT) => Ok(false),
            status => Ok(status.with_context(path)?.st_ino == own.ino()),
        }
    }

    fn check_possession(&self, what: &str) -> Result<()> {
        ensure!(!self.lost, "{} has just been {what} by somebody else", self.path().display());
        Ok(())
    }

    /// As the directory's links count them.
    pub fn has_groups_below(&self) -> Result<bool> {
        let status = self.status().with_context(|| self.path().display().to_string())?;
        Ok(status.st_nlink > 2)
    }

    pub fn is_claimed(&self) -> Result<bool> {
        let directory = match self.open(Path::new(""), OFlag::O_RDONLY | OFlag::O_DIRECTORY) {
            Err(Errno::ENOENT) => return Ok(false),
            directory => directory.with_context(|| format!("open {}", self.path().display()))?,
        };
        match File::from(directory).try_lock() {
            Ok(()) => Ok(false),
            Err(TryLockError::WouldBlock) => Ok(true),
            Err(TryLockError::Error(error)) => {
                Err(error).with_context(|| format!("lock {}", self.path().display()))
            }
        }
    }

    /// The directory itself.
    pub fn directory(&self) -> Result<OwnedFd> {
        self.open(Path::new(""), OFlag::O_PATH | OFlag::O_DIRECTORY)
            .with_context(|| format!("open {}", self.path().display()))
    }

    pub fn writer(&self, file: &str) -> Result<Writer> {
        let path = self.path().join(file);
        let fd = self
            .open(Path::new(file), OFlag::O_WRONLY)
            .with_context(|| format!("open {} for writing", path.display()))?;
        Ok(Writer { fd, path })
    }

    pub fn write(&self, file: &str, value: &str) -> Result<()> {
        self.try_write(file, value)
            .with_context(|| format!("write {value:?} to {}", self.path().join(file).display()))
    }

    /// As [`Group::write`], for those who know what some errors mean.
    pub fn try_write(&self, file: &str, value: &str) -> Result<(), Errno> {
        let fd = self.open(Path::new(file), OFlag::O_WRONLY)?;
        write(fd, value.as_bytes()).map(drop)
    }

    /// Change a file's owner, or the directory's own (`.`). Not every group has every file.
    pub fn give(&self, file: &str, owner: u32) -> Result<()> {
        let path = self.path.join(file);
        match fchownat(&self.root.fd, &path, Some(owner.into()), None, AtFlags::AT_SYMLINK_NOFOLLOW) {
            Ok(()) | Err(Errno::ENOENT) => Ok(()),
            Err(errno) => {
                Err(errno).with_context(|| format!("give {} to {owner}", self.root.path.join(path).display()))
            }
        }
    }

    pub fn read(&self, file: &str) -> Result<String> {
        self.try_read(file).with_context(|| format!("read {}", self.path().join(file).display()))
    }

    pub fn try_read(&self, file: &str) -> Result<String, Errno> {
        let fd = self.open(Path::new(file), OFlag::O_RDONLY)?;
        let (mut bytes, mut length) = (vec![0; 4096], 0);
        loop {
            match read(&fd, &mut bytes[length..])? {
                0 => break,
                count => length += count,
            }
            if length == bytes.len() {
                bytes.resize(2 * length, 0);
            }
        }
        bytes.truncate(length);
        String::from_utf8(bytes).map_err(|_| Errno::EILSEQ)
    }

    pub fn open(&self, file: &Path, flags: OFlag) -> Result<OwnedFd, Errno> {
        self.reach(&self.path.join(file), |from, path| {
            openat(from, path, flags | OFlag::O_CLOEXEC, Mode::empty())
        })
    }

    /// Of the directory itself.
    fn status(&self) -> Result<FileStat, Errno> {
        self.reach(&self.path, |from, path| fstatat(from, path, AtFlags::AT_SYMLINK_NOFOLLOW))
    }

    /// Act on a path below the root. A container that nests groups can make it longer than the kernel takes (PATH_MAX);
    /// then the way goes by descriptors.
    fn reach<T>(
        &self,
        path: &Path,
        act: impl FnOnce(BorrowedFd<'_>, &Path) -> Result<T, Errno>,
    ) -> Result<T, Errno> {
        const LONGEST: usize = libc::PATH_MAX as usize - 1;
        if path.as_os_str().len() <= LONGEST {
            return act(self.root.fd.as_fd(), path);
        }
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let (mut from, mut rest) = (None, PathBuf::new());
        for component in path.components() {
            if rest.as_os_str().len() + 1 + component.as_os_str().len() > LONGEST {
                let so_far = from.as_ref().map_or(self.root.fd.as_fd(), OwnedFd::as_fd);
                from = Some(openat(so_far, &rest, flags, Mode::empty())?);
                rest = PathBuf::new();
            }
            rest.push(component);
        }
        act(from.as_ref().map_or(self.root.fd.as_fd(), OwnedFd::as_fd), &rest)
    }

    /// The processes in the group and in those below it; none once it is gone.
    pub fn pids(&self) -> Result<Vec<Pid>> {
        let mut pids = Vec::new();
        match self.list(&mut pids) {
            Err(Errno::EOPNOTSUPP) => self.list_leaders(&mut pids),
            listed => listed,
        }
        .with_context(|| format!("list the processes in {}", self.path().display()))?;
        Ok(pids)
    }

    fn list(&self, pids: &mut Vec<Pid>) -> Result<(), Errno> {
        match self.listed("cgroup.procs") {
            Err(Errno::ENOENT | Errno::ENODEV) => return Ok(()),
            listed => pids.extend(listed?),
        }
        for child in self.try_children()? {
            match child.list(pids) {
                // A group of threads (cgroups(7)): their processes are in the list of the domain above.
                Err(Errno::EOPNOTSUPP) => {}
                listed => listed?,
            }
        }
        Ok(())
    }

    /// Where there is no domain but somewhere above: the processes whose first threads are here.
    fn list_leaders(&self, pids: &mut Vec<Pid>) -> Result<(), Errno> {
        let threads = self.listed("cgroup.threads")?;
        // Others have no handle.
        pids.extend(threads.into_iter().filter(|thread| open_pidfd(thread.as_raw()).is_ok()));
        self.try_children()?.iter().try_for_each(|child| child.list_leaders(pids))
    }

    /// A process of a pid namespace that is not below ours is listed as 0 and cannot be named.
    fn listed(&self, file: &str) -> Result<Vec<Pid>, Errno> {
        let listed = self.try_read(file)?;
        let pids = listed.lines().filter_map(|pid| pid.parse().ok()).filter(|pid| *pid != 0);
        Ok(pids.map(Pid::from_raw).collect())
    }

    fn children(&self) -> Result<Vec<Group>> {
        self.try_children().with_context(|| format!("list {}", self.path().display()))
    }

    fn try_children(&self) -> Result<Vec<Group>, Errno> {
        match self.status() {
            // Links from the parent and from itself, none from a child: most groups, at the cost of one call.
            Ok(status) if status.st_nlink == 2 => return Ok(Vec::new()),
            Ok(_) => {}
            Err(Errno::ENOENT) => return Ok(Vec::new()),
            Err(errno) => return Err(errno),
        }
        let mut children = Vec::new();
        for entry in Dir::from_fd(self.open(Path::new(""), OFlag::O_RDONLY | OFlag::O_DIRECTORY)?)?.iter() {
            let entry = entry?;
            let name = entry.file_name().to_bytes();
            if entry.file_type() == Some(Type::Directory) && name != b"." && name != b".." {
                children.push(self.below(Path::new(OsStr::from_bytes(name))));
            }
        }
        Ok(children)
    }

    /// The names of all that is in the directory.
    pub fn files(&self) -> Result<Vec<String>> {
        self.try_files().with_context(|| format!("list {}", self.path().display()))
    }

    fn try_files(&self) -> Result<Vec<String>, Errno> {
        let directory = match self.open(Path::new(""), OFlag::O_RDONLY | OFlag::O_DIRECTORY) {
            Err(Errno::ENOENT) => return Ok(Vec::new()),
            directory => directory?,
        };
        let name = |entry: Result<nix::dir::Entry, Errno>| {
            Ok(String::from_utf8_lossy(entry?.file_name().to_bytes()).into_owned())
        };
        Dir::from_fd(directory)?.iter().map(name).collect()
    }

    /// Remove what the container brought: nested groups, the group itself, and the parents made for it.
    pub fn remove(&self, deadline: &Deadline) -> Result<()> {
        if self.lost {
            return Ok(());
        }
        if self.is_found() {
            for child in self.children()? {
                child.remove_tree(deadline)?;
            }
            return Ok(());
        }
        self.remove_tree(deadline)?;
        for depth in (self.place.found + 1..self.place.depth()).rev() {
            let parent = self.ancestor(depth);
            match parent.rmdir() {
                Ok(()) | Err(Errno::ENOENT) => {}
                // Somebody else's group is in it by now.
                Err(Errno::EBUSY | Errno::ENOTEMPTY) => break,
                Err(errno) => {
                    return Err(errno).with_context(|| format!("remove {}", parent.path().display()));
                }
            }
        }
        Ok(())
    }

    fn remove_tree(&self, deadline: &Deadline) -> Result<()> {
        let mut pause = deadline.pause();
        loop {
            let errno = match self.rmdir() {
                Ok(()) | Err(Errno::ENOENT) => return Ok(()),
                Err(errno) => errno,
            };
            if errno != Errno::EBUSY && errno != Errno::ENOTEMPTY {
                return Err(errno).with_context(|| format!("remove {}", self.path().display()));
            }
            for child in self.children()? {
                child.remove_tree(deadline)?;
            }
            if !pause.take() {
                let holder = self.holder()?;
                return Err(errno).with_context(|| format!("remove {}{holder}", self.path().display()));
            }
        }
    }

    fn rmdir(&self) -> Result<(), Errno> {
        self.reach(&self.path, |from, path| unlinkat(from, path, UnlinkatFlags::RemoveDir))
    }

    /// Who keeps the group from becoming empty or still, to be said after its name. A process in state D (waiting in
    /// the kernel) is the likeliest.
    pub fn holder(&self) -> Result<String> {
        let mut held = String::new();
        for pid in self.pids()? {
            // Gone meanwhile, if it cannot be read.
            let Ok(status) = fs::read_to_string(format!("/proc/{pid}/stat")) else { continue };
            // PID (NAME) STATE ...; the name may hold anything, parentheses too (proc_pid_stat(5)).
            let Some((name, rest)) = status.rsplit_once(") ") else { continue };
            let name = name.split_once('(').map_or(name, |(_, name)| name);
            let state = rest.chars().next().unwrap_or('?');
            if held.is_empty() || state == 'D' {
                held = format!(", which process {pid} ({name}) in state {state} holds");
            }
            if state == 'D' {
                break;
            }
        }
        Ok(held)
    }

    /// A group that somebody else uses or has frozen is no place for a container.
    pub fn refuse_processes(&self) -> Result<()> {
        if let Some(pid) = self.pids()?.first() {
            bail!("{} exists already and is not empty: process {pid} is in it", self.path().display());
        }
        Ok(())
    }
}

impl Writer {
    pub fn write(&self, value: &str) -> Result<()> {
        write(&self.fd, value.as_bytes())
            .map(drop)
            .with_context(|| format!("write {value:?} to {}", self.path.display()))
    }

    pub fn into_fd(self) -> OwnedFd {
        self.fd
    }
}
