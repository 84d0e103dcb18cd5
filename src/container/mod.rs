//! What a container is between two commands: its state as written down, and as the kernel has it now.
//!
//! Runs outside.

pub mod gate;
pub mod state;
pub mod store;

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use anyhow::{Context, Result, bail};
use nix::errno::Errno;
use serde::{Deserialize, Serialize};

use crate::host;
use crate::host::cgroup::{self, Cgroup};
use crate::host::systemd::Systemd;
use crate::plan::annotations::Annotations;
use crate::plan::{HookPoint, hooks};
use crate::sys::process::signal;
use state::{State, ends_within};
use store::{Room, Store, does_not_exist};

/// The copy of the bundle's configuration; `exec`, `update` and `delete` use it, never the bundle.
pub const CONFIG: &str = "config.json";

/// In the room of a restored container: where criu finds the root filesystem, in a mount namespace of its own.
pub const CRIU: &str = "criu";

/// How long a killed process may take to be gone.
pub const DEATH_DEADLINE_MS: u16 = 10_000;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    Creating,
    Created,
    Running,
    Paused,
    Stopped,
}

impl Status {
    pub fn name(self) -> &'static str {
        match self {
            Status::Creating => "creating",
            Status::Created => "created",
            Status::Running => "running",
            Status::Paused => "paused",
            Status::Stopped => "stopped",
        }
    }
}

/// What `state` and `list` print: the specification's state, and what engines expect beside it.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Document<'a> {
    pub oci_version: &'a str,
    pub id: &'a str,
    /// 0 when there is none.
    pub pid: i32,
    pub status: Status,
    pub bundle: &'a Path,
    pub rootfs: &'a Path,
    pub created: &'a str,
    #[serde(skip_serializing_if = "Annotations::is_empty")]
    pub annotations: &'a Annotations,
    pub owner: String,
}

impl State {
    pub fn document<'a>(&'a self, status: Status, annotations: &'a Annotations) -> Document<'a> {
        let alive = !matches!(status, Status::Stopped | Status::Creating);
        Document {
            oci_version: &self.oci_version,
            id: &self.id,
            pid: self.init.filter(|_| alive).map_or(0, |process| process.pid),
            status,
            bundle: &self.bundle,
            rootfs: &self.rootfs,
            created: &self.created,
            annotations,
            owner: self.owner_name(),
        }
    }

    /// The state as hooks read it (config.md, POSIX-platform hooks), in JSON.
    pub fn for_hooks(&self, annotations: &Annotations, point: HookPoint, pid: i32) -> Vec<u8> {
        hooks::state(&self.id, &self.bundle, annotations, point.status()).with_pid(pid)
    }

    /// The same for a seccomp agent. While the container is being made, `newcomer` is to be its init.
    pub fn for_agents(&self, annotations: &Annotations, newcomer: i32) -> serde_json::Value {
        let (status, pid) = match self.init {
            None => (Status::Creating, newcomer),
            Some(init) => (Status::Running, init.pid),
        };
        serde_json::json!({
            "ociVersion": self.oci_version,
            "id": self.id,
            "status": status,
            "pid": pid,
            "bundle": self.bundle,
            "annotations": annotations,
        })
    }

    /// As the room's copy of the configuration has them. `None` when it is just being removed.
    pub fn annotations(&self, room: &Path) -> Result<Option<Annotations>> {
        #[derive(Deserialize)]
        struct Annotated {
            annotations: Annotations,
        }
        if !self.annotated {
            return Ok(Some(Annotations::default()));
        }
        let path = room.join(CONFIG);
        let text = match std::fs::read(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            result => result.with_context(|| format!("read {path:?}"))?,
        };
        let config: Annotated =
            serde_json::from_slice(&text).with_context(|| format!("{path:?} is damaged"))?;
        Ok(Some(config.annotations))
    }

    /// By `/etc/passwd` alone: getpwuid(3) would load libraries into a static program.
    fn owner_name(&self) -> String {
        let uid = self.owner.to_string();
        let table = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
        let lines = table.lines().map(|line| line.split(':'));
        let mut names = lines.filter_map(|mut fields| {
            let name = fields.next()?;
            (fields.nth(1)? == uid).then(|| name.to_string())
        });
        names.next().unwrap_or(uid)
    }

    /// Init, if it is alive.
    pub fn init(&self) -> Result<Option<OwnedFd>> {
        match self.init {
            Some(process) => process.open(),
            None => Ok(None),
        }
    }

    /// The groups that its processes are in. Before it can have any, whoever is in groups of these names is somebody
    /// else's: a runtime that was killed had written down where it would make them, and another may have come first.
    pub fn cgroup(&self, room: &Path) -> Result<Option<Box<dyn Cgroup>>> {
        match &self.cgroup {
            Some(location) if self.has_begun(room)? => cgroup::reopen(location).map(Some),
            _ => Ok(None),
        }
    }

    /// Whether a first process may have been born, be it only to wait for systemd's unit.
    fn has_begun(&self, room: &Path) -> Result<bool> {
        Ok(self.init.is_some() || gate::exists(room)? || exists(&room.join(CRIU))?)
    }

    /// What the container is doing at this moment.
    pub fn status(&self, room: &Path) -> Result<Status> {
        let Some(process) = self.init else { return Ok(Status::Creating) };
        if !process.is_alive()? {
            return Ok(Status::Stopped);
        }
        // Before the gate: an init that is frozen at it cannot be started.
        match self.cgroup(room)? {
            Some(cgroup) if cgroup.is_frozen()? => Ok(Status::Paused),
            _ if gate::is_waiting(room)? => Ok(Status::Created),
            _ => Ok(Status::Running),
        }
    }
}

/// A container that nobody else is changing.
pub struct Container {
    pub room: Room,
    pub state: State,
}

impl Container {
    pub fn enter(store: &Store, id: &str) -> Result<Container> {
        let room = store.enter(id)?;
        let Some(state) = State::read(&room.path)? else {
            bail!(does_not_exist(id));
        };
        Ok(Container { room, state })
    }

    /// As [`Container::enter`], or what a runtime that was killed has left; that has no state to go by.
    pub fn enter_remains(store: &Store, id: &str) -> Result<Option<Container>> {
        let Some(room) = store.enter_if_there(id)? else { return Ok(None) };
        match State::read(&room.path)? {
            Some(state) => Ok(Some(Container { room, state })),
            None => {
                room.remove()?;
                Ok(None)
            }
        }
    }

    pub fn status(&self) -> Result<Status> {
        self.state.status(&self.room.path)
    }

    pub fn cgroup(&self) -> Result<Option<Box<dyn Cgroup>>> {
        self.state.cgroup(&self.room.path)
    }

    pub fn config(&self) -> Result<Vec<u8>> {
        read_config(&self.room.path)
    }

    /// The state as hooks read it that run when init has been born.
    pub fn for_hooks(&self, point: HookPoint, pid: i32) -> Result<Vec<u8>> {
        let annotations = self.state.annotations(&self.room.path)?.unwrap_or_default();
        Ok(self.state.for_hooks(&annotations, point, pid))
    }

    /// Kill everything that is in the container, and see that its init is gone.
    pub fn kill(&self) -> Result<()> {
        if let Some(cgroup) = self.cgroup()? {
            cgroup.kill()?;
        }
        let Some(init) = self.state.init()? else { return Ok(()) };
        kill_process(&init, libc::SIGKILL)?;
        if !ends_within(&init, DEATH_DEADLINE_MS)? {
            let pid = self.state.init.map_or(0, |process| process.pid);
            bail!("container init still running: process {pid} {}", state::whereabouts(pid));
        }
        Ok(())
    }

    /// Remove all that was made for it. Its processes must have ended.
    pub fn remove(self) -> Result<()> {
        if let Some(mount) = &self.state.host_mount {
            host::unmount(mount)?;
        }
        let begun = self.state.has_begun(&self.room.path)?;
        if let Some(location) = &self.state.cgroup {
            if begun { cgroup::reopen(location)?.remove()? } else { cgroup::remove_unused(location)? }
        }
        if let Some(unit) = &self.state.wanted {
            Systemd::connect(unit)?.stop_that_of(&self.state.id)?;
        }
        if let Some(resctrl) = &self.state.resctrl {
            if begun { resctrl.remove()? } else { resctrl.remove_unused()? }
        }
        if self.state.notify {
            host::notify::remove(&self.room.path)?;
        }
        self.room.remove()
    }
}

/// Send a signal; a process that has just ended needs none.
pub fn kill_process(process: &OwnedFd, number: i32) -> Result<()> {
    match signal(process.as_fd(), number) {
        Ok(()) | Err(Errno::ESRCH) => Ok(()),
        Err(error) => Err(error).context("signal a process of the container"),
    }
}

/// The configuration a container was made from, as it was then.
pub fn read_config(room: &Path) -> Result<Vec<u8>> {
    let path = room.join(CONFIG);
    std::fs::read(&path).with_context(|| format!("read {path:?}"))
}

fn exists(path: &Path) -> Result<bool> {
    std::fs::exists(path).with_context(|| format!("look at {path:?}"))
}

/// Ids name directories, and engines put them into cgroup paths.
pub fn check_id(id: &str) -> Result<()> {
    // NAME_MAX: the name of its directory.
    const LONGEST: usize = 255;
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"_+-.".contains(&byte);
    if id.is_empty() || id.len() > LONGEST || id.starts_with('.') || !id.bytes().all(fits) {
        let shown: String = id.chars().take(64).collect();
        bail!(
            "invalid container id {shown:?}: it must be up to {LONGEST} letters, digits, and the signs _ + - . with no dot in front"
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::check_id;

    #[test]
    fn an_id_is_a_plain_file_name() {
        for good in ["web", "a.b-c_d+e", "0", &"x".repeat(255)] {
            check_id(good).unwrap();
        }
        for bad in ["", ".", "..", ".hidden", "a/b", "../x", "a b", "é", "a\0b", &"x".repeat(256)] {
            check_id(bad).unwrap_err();
        }
    }
}
