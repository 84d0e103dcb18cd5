//! The directory of all containers: one room each, with its lock.
//!
//! Runs outside. A room holds `state.json`, `config.json` and the start gate. Operations that change a container hold
//! its room's lock; those that look read `state.json`, which is only ever replaced as a whole.

use std::ffi::OsStr;
use std::fs::{self, DirBuilder, File, Permissions, TryLockError};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::check_id;
use super::state::{State, whereabouts};

/// How long to wait for another operation on the same container.
const LOCK_DEADLINE: Duration = Duration::from_secs(30);

/// `/run/corten`, or where `--root` points.
#[derive(Debug)]
pub struct Store {
    root: PathBuf,
}

/// A container's directory, locked.
#[derive(Debug)]
pub struct Room {
    pub path: PathBuf,
    /// Held for as long as the room is in somebody's hands.
    _lock: File,
}

impl Store {
    pub fn new(root: PathBuf) -> Store {
        Store { root }
    }

    pub fn path(&self, id: &str) -> PathBuf {
        self.root.join(id)
    }

    /// Make a new container's room; an id that is taken is refused.
    pub fn claim(&self, id: &str) -> Result<Room> {
        self.make_root()?;
        let path = self.path(id);
        match DirBuilder::new().mode(0o711).create(&path) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                bail!("container with id {id:?} already exists")
            }
            Err(error) => return Err(error).with_context(|| format!("make directory {path:?}")),
        }
        let locked = lock(path.clone(), id).and_then(|room| room.with_context(|| does_not_exist(id)));
        locked.inspect_err(|_| {
            // Whoever else has it locked removes it; an empty directory alone would only keep the id.
            let _ = fs::remove_dir(&path);
        })
    }

    /// Lock a container's room.
    pub fn enter(&self, id: &str) -> Result<Room> {
        self.enter_if_there(id)?.with_context(|| does_not_exist(id))
    }

    pub fn enter_if_there(&self, id: &str) -> Result<Option<Room>> {
        check_id(id)?;
        lock(self.path(id), id)
    }

    /// What is known about a container, without its lock.
    pub fn look(&self, id: &str) -> Result<State> {
        check_id(id)?;
        State::read(&self.path(id))?.with_context(|| does_not_exist(id))
    }

    /// The ids of all containers, sorted.
    pub fn ids(&self) -> Result<Vec<String>> {
        let entries = match fs::read_dir(&self.root) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            result => result.with_context(|| format!("read directory {:?}", self.root))?,
        };
        let mut ids = Vec::new();
        for entry in entries {
            let entry = entry.with_context(|| format!("read directory {:?}", self.root))?;
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                ids.extend(entry.file_name().into_string());
            }
        }
        ids.sort();
        Ok(ids)
    }

    /// Only its owner may look in; the sticky bit keeps cleaners of temporary directories away.
    fn make_root(&self) -> Result<()> {
        let root = &self.root;
        if root.is_dir() {
            return Ok(());
        }
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(root)
            .and_then(|()| fs::set_permissions(root, Permissions::from_mode(0o1700)))
            .with_context(|| format!("make directory {root:?}"))
    }
}

/// `does not exist` is what engines look for.
pub fn does_not_exist(id: &str) -> String {
    format!("container {id:?} does not exist")
}

/// `None` when there is no such directory, or none any more.
fn lock(path: PathBuf, id: &str) -> Result<Option<Room>> {
    let deadline = Instant::now() + LOCK_DEADLINE;
    // Nobody puts a link there but to have what it leads to removed.
    let flags = libc::O_DIRECTORY | libc::O_NOFOLLOW;
    let directory = match fs::OpenOptions::new().read(true).custom_flags(flags).open(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        result => result.with_context(|| format!("open {path:?}"))?,
    };
    loop {
        match directory.try_lock() {
            Ok(()) => {
                // Whoever held it may have removed the directory meanwhile.
                let links = directory.metadata().with_context(|| format!("look at {path:?}"))?.nlink();
                return Ok((links > 0).then_some(Room { path, _lock: directory }));
            }
            Err(TryLockError::WouldBlock) if Instant::now() < deadline => {
                std::thread::sleep(Duration::from_millis(5));
            }
            Err(TryLockError::WouldBlock) => {
                let holder = holder(&directory).map(|pid| format!(": process {pid} {}", whereabouts(pid)));
                bail!(
                    "another operation on container {id:?} has been running for {} s{}",
                    LOCK_DEADLINE.as_secs(),
                    holder.unwrap_or_default()
                )
            }
            Err(TryLockError::Error(error)) => {
                return Err(error).with_context(|| format!("lock {path:?}"));
            }
        }
    }
}

/// Who has the lock of a directory, by /proc/locks (proc_locks(5)): `N: FLOCK ADVISORY WRITE PID MAJOR:MINOR:INODE 0 EOF`.
/// None if it is not a process of our pid namespace.
fn holder(directory: &File) -> Option<i32> {
    let looked_at = directory.metadata().ok()?;
    let (device, inode) = (looked_at.dev(), looked_at.ino());
    let place = format!("{:02x}:{:02x}:{inode}", libc::major(device), libc::minor(device));
    let locks = fs::read_to_string("/proc/locks").ok()?;
    locks.lines().find_map(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words[..] {
            [_, "FLOCK", _, _, pid, at, ..] if at == place => pid.parse().ok().filter(|pid| *pid > 0),
            _ => None,
        }
    })
}

impl Room {
    /// Replace `name` as a whole: readers see the old content or the new.
    pub fn write(&self, name: &str, content: &[u8]) -> Result<()> {
        write_atomically(&self.path.join(name), content, 0o600)
    }

    /// Never what is inside a directory of it: that may be a root which could not be unmounted.
    pub fn remove(self) -> Result<()> {
        let remove = || {
            for entry in fs::read_dir(&self.path)? {
                let entry = entry?;
                match entry.file_type()?.is_dir() {
                    true => fs::remove_dir(entry.path())?,
                    false => fs::remove_file(entry.path())?,
                }
            }
            fs::remove_dir(&self.path)
        };
        match remove() {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(error).with_context(|| format!("remove {:?}", self.path))
            }
            _ => Ok(()),
        }
    }
}

/// Write a file beside `path`, then give it its name. State lives on tmpfs: there is no disk to wait for.
pub fn write_atomically(path: &Path, content: &[u8], mode: u32) -> Result<()> {
    let name = path.file_name().unwrap_or(OsStr::new("file"));
    let mut hidden = std::ffi::OsString::from(".");
    hidden.push(name);
    hidden.push(format!(".{}", std::process::id()));
    let beside = path.with_file_name(hidden);
    let make = || fs::OpenOptions::new().write(true).create_new(true).mode(mode).open(&beside);
    let write = || {
        use std::io::Write;
        let mut file = match make() {
            // Of a process that had our id and was killed; or somebody's who would have us write elsewhere.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                fs::remove_file(&beside)?;
                make()?
            }
            made => made?,
        };
        file.write_all(content)?;
        fs::rename(&beside, path)
    };
    write()
        .inspect_err(|_| {
            // The write's own error is the one to report.
            let _ = fs::remove_file(&beside);
        })
        .with_context(|| format!("write {path:?}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_holder_of_a_lock_is_found() {
        let place = tempfile::tempdir().unwrap();
        let directory = || File::open(place.path()).unwrap();
        let held = directory();
        assert_eq!(holder(&directory()), None);
        held.lock().unwrap();
        assert_eq!(holder(&directory()), Some(std::process::id() as i32));
    }
}
