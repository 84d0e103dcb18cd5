//! Control groups: made, limited, frozen and removed.
//!
//! Runs outside. A container has one group on every hierarchy that is mounted. Processes get in by being born there
//! (v2) or by walking in themselves (v1); the runtime writes no other process's id into `cgroup.procs`, which waits for an
//! RCU grace period, but where systemd has just done so and a unit's groups are not all its own.

use std::collections::HashMap;
use std::fs;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::{Component, Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::plan::cgroup::{CgroupLayout, Hierarchy, Location, Place};
use crate::plan::limits::{DeviceLimits, Setting};
use group::{Group, Root};
use oom::OomWatch;
use stats::Stats;
use v2::V2;

mod device_bpf;
mod group;
pub mod oom;
pub mod scope;
mod settings;
pub mod stats;
mod v1;
mod v2;
mod wait;

/// How long anything here waits for the kernel, or for processes to be gone.
const PATIENCE: Duration = Duration::from_secs(10);

/// A control group, whoever made it.
pub trait Cgroup {
    /// A group that was there before, and that somebody uses or has frozen, is no place for a container.
    fn refuse_others(&self) -> Result<()>;
    fn create(&mut self) -> Result<()>;
    /// The same for a process that waits for it and has to be moved, since systemd could not make its unit without one.
    fn create_around(&mut self, pid: Pid) -> Result<()>;
    /// Open the doors and the birthplace of a group that exists.
    fn admit(&mut self) -> Result<()>;
    /// Whether its processes may have moved down (v2).
    fn has_groups_below(&self) -> Result<bool>;
    /// A directory a child can be born into, where the kernel offers it (v2).
    fn birthplace(&self) -> Option<BorrowedFd<'_>>;
    /// The files a child writes `0` to, to move itself (v1).
    fn doors(&self) -> &[OwnedFd];
    /// Give it to a user, with the files that the kernel holds safe to be given away (v2).
    fn give_to(&self, owner: u32) -> Result<()>;
    /// Set what devices may be opened. Before anybody is in the group: rule after rule, v1 denies before it allows.
    fn restrict_devices(&self, devices: &DeviceLimits) -> Result<()>;
    /// Write the limits. May come when there is a process: some would keep it from being born (`pids.max` 0).
    fn set_limits(&self, settings: &[Setting]) -> Result<()>;
    /// What the files of these settings hold now, as settings that put it back.
    fn present(&self, settings: &[Setting]) -> Result<Vec<Setting>>;
    /// Put it back, as far as it is not so already.
    fn restore(&self, kept: &[Setting]) -> Result<()>;
    fn freeze(&self, frozen: bool) -> Result<()>;
    fn is_frozen(&self) -> Result<bool>;
    /// What it and those below it have used.
    fn stats(&self) -> Result<Stats>;
    /// None where no controller accounts memory.
    fn watch_oom(&self) -> Result<Option<OomWatch<'_>>>;
    /// Whether somebody is about to be born in it.
    fn is_claimed(&self) -> Result<bool>;
    /// Every process in it and below it.
    fn pids(&self) -> Result<Vec<Pid>>;
    /// Kill every process in it and below it, frozen or not.
    fn kill(&self) -> Result<()>;
    /// Wait until it is empty, then remove what was made.
    fn remove(&self) -> Result<()>;
    /// What a later command needs to find it again.
    fn location(&self) -> Location;
}

/// The group of a container that does not exist yet. Looks what is there already, and is not ours to remove.
pub fn open(layout: &CgroupLayout, path: &Path, delegate: Option<&Path>) -> Result<Box<dyn Cgroup>> {
    let root = Root::open(&layout.root)?;
    let survey = |hierarchy: &Hierarchy| -> Result<Place> {
        let found = root.survey(&hierarchy.directory, path)?;
        Ok(Place { hierarchy: hierarchy.clone(), path: path.to_owned(), found })
    };
    let location = Location {
        root: layout.root.clone(),
        v1: layout.v1.iter().map(survey).collect::<Result<_>>()?,
        v2: layout.v2.as_ref().map(survey).transpose()?,
        unit: None,
    };
    let group = tree(&root, &location, delegate)?;
    // Before anybody writes down that it is ours: what is ours is killed and removed.
    group.refuse_others()?;
    Ok(group)
}

/// The group of a container that was written down.
pub fn reopen(location: &Location) -> Result<Box<dyn Cgroup>> {
    let groups = tree(&Root::open(&location.root)?, location, None)?;
    match &location.unit {
        Some(unit) => Ok(Box::new(scope::Scope::reopen(unit, groups))),
        None => Ok(groups),
    }
}

/// Remove groups that were written down for a container that never had a process, as far as they are nobody else's.
/// Whoever comes between the question and the answer is told by the kernel: what has been entered stays, and nobody
/// enters what is gone.
pub fn remove_unused(location: &Location) -> Result<()> {
    let groups = reopen(location)?;
    if groups.is_claimed()? || !groups.pids()?.is_empty() { Ok(()) } else { groups.remove() }
}

/// The group of a process in every hierarchy, by the hierarchy's controllers (cgroups(7)).
fn listed(pid: Pid) -> Result<HashMap<String, PathBuf>> {
    let path = format!("/proc/{pid}/cgroup");
    let text = fs::read_to_string(&path).with_context(|| format!("read {path}"))?;
    let lines = text.lines().filter_map(|line| line.split_once(':')?.1.split_once(":/"));
    Ok(lines.map(|(controllers, group)| (controllers.to_string(), PathBuf::from(group))).collect())
}

/// The container's groups with the one below its v2 group that `init` has moved to since, if it has.
pub fn moved_down(container: &Location, init: Pid) -> Result<Option<Location>> {
    let Some(own) = &container.v2 else { return Ok(None) };
    let below = listed(init)?.remove("").filter(|path| path.starts_with(&own.path) && *path != own.path);
    Ok(below.map(|path| Location {
        v2: Some(Place { found: path.components().count(), path, ..own.clone() }),
        ..container.clone()
    }))
}

/// Where a process is in the hierarchies of `location`.
fn of_pid(location: &Location, pid: Pid) -> Result<Location> {
    let groups = listed(pid)?;
    let place = |place: &Place, controllers: &str| -> Result<Place> {
        let path = groups
            .get(controllers)
            .with_context(|| format!("/proc/{pid}/cgroup does not list {controllers:?}"))?
            .clone();
        if path.components().any(|component| component == Component::ParentDir) {
            bail!("process {pid} is in the group {path:?}, outside of our cgroup namespace");
        }
        let found = path.components().count();
        Ok(Place { hierarchy: place.hierarchy.clone(), path, found })
    };
    Ok(Location {
        root: location.root.clone(),
        v1: location
            .v1
            .iter()
            .map(|one| place(one, &one.hierarchy.controllers.join(",")))
            .collect::<Result<_>>()?,
        v2: location.v2.as_ref().map(|one| place(one, "")).transpose()?,
        unit: None,
    })
}

fn kill_each(pids: &[Pid]) -> Result<()> {
    pids.iter().try_for_each(|pid| match kill(*pid, Signal::SIGKILL) {
        Ok(()) | Err(Errno::ESRCH) => Ok(()),
        Err(errno) => Err(errno).with_context(|| format!("kill process {pid}")),
    })
}

/// Whether an error says that this user may make no groups here.
pub fn is_denied(error: &anyhow::Error) -> bool {
    matches!(error.downcast_ref(), Some(Errno::EACCES | Errno::EPERM | Errno::EROFS))
}

/// `delegate` matters to who makes the groups alone: later everything finds the container below.
fn tree(root: &Rc<Root>, location: &Location, delegate: Option<&Path>) -> Result<Box<dyn Cgroup>> {
    let unified = location.v2.as_ref().map(|place| V2::new(Group::new(root, place.clone()), delegate));
    match (location.v1.is_empty(), unified) {
        (true, None) => bail!("no cgroup hierarchy is mounted at {}", location.root.display()),
        (true, Some(unified)) => Ok(Box::new(unified)),
        (false, unified) => {
            let groups = location.v1.iter().map(|place| Group::new(root, place.clone())).collect();
            Ok(Box::new(v1::V1::new(groups, unified)))
        }
    }
}

#[cfg(test)]
mod tests;
