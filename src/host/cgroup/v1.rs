//! The v1 hierarchies: a group of the same path on each, and on a hybrid host one on the v2 hierarchy as well.
//!
//! Runs outside. A process gets in through the doors, by its own hand while it has a single thread; the kernel then
//! needs no lock that others wait for.

use std::ops::Range;
use std::os::fd::{BorrowedFd, OwnedFd};

use anyhow::{Context, Result, bail};
use nix::unistd::Pid;

use super::group::{Claim, Group};
use super::oom::OomWatch;
use super::stats::{self, Stats};
use super::v2::V2;
use super::wait::Deadline;
use super::{Cgroup, PATIENCE, kill_each, settings};
use crate::plan::cgroup::{Location, Version};
use crate::plan::device_rules::{DeviceRules, Verdict};
use crate::plan::limits::{DeviceLimits, Setting};

pub struct V1 {
    /// At least one, until all are somebody else's.
    groups: Vec<Group>,
    unified: Option<V2>,
    doors: Vec<OwnedFd>,
    claim: Option<Claim>,
}

impl V1 {
    pub fn new(groups: Vec<Group>, unified: Option<V2>) -> V1 {
        V1 { groups, unified, doors: Vec::new(), claim: None }
    }

    fn make(&mut self, indices: Range<usize>) -> Result<()> {
        for index in indices {
            let group = &mut self.groups[index];
            let cpuset = group.controls("cpuset");
            let made = group.make(|made| if cpuset { inherit_cpuset(made) } else { Ok(()) });
            self.forget_lost(index);
            made?;
        }
        Ok(())
    }

    fn make_others(&mut self) -> Result<()> {
        self.make(1..self.groups.len())?;
        self.refuse_frozen()?;
        self.unified.as_mut().map_or(Ok(()), V2::make)
    }

    /// A new group is as still as the one above.
    fn refuse_frozen(&self) -> Result<()> {
        let Some(freezer) = self.group("freezer") else { return Ok(()) };
        if !is_frozen(freezer)? {
            return Ok(());
        }
        let holds =
            |group: &Group| group.try_read("freezer.self_freezing").is_ok_and(|own| own.trim() == "1");
        let holder = freezer.ancestors().find(holds).map_or_else(|| freezer.path(), |group| group.path());
        bail!("{} is frozen, and so would the container be", holder.display())
    }

    /// Whoever has this group has the others too.
    fn forget_lost(&mut self, index: usize) {
        if self.groups[index].is_lost() {
            self.groups.truncate(index);
            self.unified = None;
        }
    }

    /// Without its controller a file of v2 is not there, and holds nothing.
    fn enable(&self, settings: &[Setting]) -> Result<()> {
        let Some(unified) = &self.unified else { return Ok(()) };
        let needed = settings.iter().filter(|setting| setting.version == Version::V2);
        let mut controllers: Vec<&str> = needed.map(|setting| setting.controller.as_str()).collect();
        controllers.dedup();
        unified.enable(&controllers)
    }

    fn group(&self, controller: &str) -> Option<&Group> {
        self.groups.iter().find(|group| group.controls(controller))
    }

    fn group_of(&self, setting: &Setting) -> Result<&Group> {
        let group = match setting.version {
            Version::V1 => self.group(&setting.controller),
            Version::V2 => self.unified.as_ref().map(V2::group),
        };
        group.with_context(|| format!("{}: the container has no group for {}", setting.field, setting.file))
    }

    /// Write a state and wait until the kernel has it. Processes that are being created while others freeze can keep
    /// the kernel at `FREEZING` until it is told again, or told to thaw and start over.
    fn reach(&self, freezer: &Group, state: &str, deadline: &Deadline) -> Result<bool> {
        let mut pause = deadline.pause();
        for attempt in 1.. {
            if attempt % 16 == 0 {
                freezer.write("freezer.state", "THAWED")?;
            }
            freezer.write("freezer.state", state)?;
            if freezer.read("freezer.state")?.trim() == state {
                return Ok(true);
            }
            if !pause.take() {
                return Ok(false);
            }
        }
        Ok(false)
    }

    /// Without `cgroup.kill`: hold all processes still, so that none can fork or be replaced, kill, and let go.
    fn kill_still(&self) -> Result<()> {
        let deadline = Deadline::after(PATIENCE / 10);
        if let Some(freezer) = self.group("freezer").filter(|freezer| freezer.exists()) {
            // A process that cannot freeze (in state D) cannot fork either.
            self.reach(freezer, "FROZEN", &deadline)?;
        }
        kill_each(&self.pids()?)
    }
}

impl Cgroup for V1 {
    fn refuse_others(&self) -> Result<()> {
        for group in self.groups.iter().filter(|group| group.is_found()) {
            group.refuse_processes()?;
            if group.controls("freezer") && is_frozen(group)? {
                bail!("{} exists already and is frozen", group.path().display());
            }
        }
        self.unified.as_ref().map_or(Ok(()), Cgroup::refuse_others)
    }

    /// Who has claimed the first makes the others.
    fn create(&mut self) -> Result<()> {
        self.make(0..1)?;
        let claim = self.groups[0].claim();
        self.forget_lost(0);
        self.claim = Some(claim?);
        self.make_others()?;
        self.admit()
    }

    fn create_around(&mut self, pid: Pid) -> Result<()> {
        self.make(0..1)?;
        self.make_others()?;
        self.groups.iter().try_for_each(|group| group.write("cgroup.procs", &pid.to_string()))?;
        self.unified
            .as_ref()
            .map_or(Ok(()), |unified| unified.group().write("cgroup.procs", &pid.to_string()))
    }

    fn admit(&mut self) -> Result<()> {
        self.doors =
            self.groups.iter().map(|group| Ok(group.writer("tasks")?.into_fd())).collect::<Result<_>>()?;
        self.unified.as_mut().map_or(Ok(()), Cgroup::admit)
    }

    fn has_groups_below(&self) -> Result<bool> {
        self.unified.as_ref().map_or(Ok(false), Cgroup::has_groups_below)
    }

    fn birthplace(&self) -> Option<BorrowedFd<'_>> {
        self.unified.as_ref()?.birthplace()
    }

    fn doors(&self) -> &[OwnedFd] {
        &self.doors
    }

    fn give_to(&self, _: u32) -> Result<()> {
        bail!("cgroup v1 cannot be delegated to a container")
    }

    fn restrict_devices(&self, devices: &DeviceLimits) -> Result<()> {
        match (devices.version, self.group("devices"), &self.unified) {
            (Version::V1, Some(group), _) => set_devices(group, &devices.rules),
            (Version::V2, _, Some(unified)) => unified.restrict_devices(devices),
            _ => bail!("linux.resources.devices: no hierarchy here controls devices"),
        }
    }

    fn set_limits(&self, settings: &[Setting]) -> Result<()> {
        self.enable(settings)?;
        settings::write_all(settings, |setting| self.group_of(setting))
    }

    fn present(&self, settings: &[Setting]) -> Result<Vec<Setting>> {
        self.enable(settings)?;
        settings::read_all(settings, |setting| self.group_of(setting))
    }

    fn restore(&self, kept: &[Setting]) -> Result<()> {
        settings::restore_all(kept, |setting| self.group_of(setting))
    }

    fn freeze(&self, frozen: bool) -> Result<()> {
        let Some(freezer) = self.group("freezer") else {
            return match &self.unified {
                Some(unified) => unified.freeze(frozen),
                None => bail!("no freezer hierarchy is mounted"),
            };
        };
        let state = if frozen { "FROZEN" } else { "THAWED" };
        if self.reach(freezer, state, &Deadline::after(PATIENCE))? {
            return Ok(());
        }
        let holder = freezer.holder()?;
        freezer.write("freezer.state", "THAWED")?;
        bail!("{} did not become {state} in time{holder}", freezer.path().display())
    }

    fn is_frozen(&self) -> Result<bool> {
        match (self.group("freezer"), &self.unified) {
            (Some(freezer), _) => is_frozen(freezer),
            (None, Some(unified)) => unified.is_frozen(),
            (None, None) => Ok(false),
        }
    }

    fn stats(&self) -> Result<Stats> {
        let mut stats = self.unified.as_ref().map(Cgroup::stats).transpose()?.unwrap_or_default();
        self.groups.iter().try_for_each(|group| stats::v1::read(group, &mut stats))?;
        Ok(stats)
    }

    fn watch_oom(&self) -> Result<Option<OomWatch<'_>>> {
        match (self.group("memory"), &self.unified) {
            (Some(memory), _) => OomWatch::v1(memory).map(Some),
            (None, Some(unified)) => unified.watch_oom(),
            (None, None) => Ok(None),
        }
    }

    fn is_claimed(&self) -> Result<bool> {
        self.groups.first().map_or(Ok(false), Group::is_claimed)
    }

    fn pids(&self) -> Result<Vec<Pid>> {
        match (&self.unified, self.groups.first()) {
            (Some(unified), _) => unified.pids(),
            (None, Some(group)) => group.pids(),
            (None, None) => Ok(Vec::new()),
        }
    }

    fn kill(&self) -> Result<()> {
        match &self.unified {
            Some(unified) => V2::kill(unified)?,
            None => self.kill_still()?,
        }
        // The v1 freezer holds even the dead.
        match self.group("freezer") {
            Some(freezer) if freezer.exists() => freezer.write("freezer.state", "THAWED"),
            _ => Ok(()),
        }
    }

    fn remove(&self) -> Result<()> {
        let deadline = Deadline::after(PATIENCE);
        // First the one that can say when it is empty.
        if let Some(unified) = &self.unified {
            unified.remove_group(&deadline)?;
        }
        self.groups.iter().try_for_each(|group| group.remove(&deadline))
    }

    fn location(&self) -> Location {
        Location {
            root: self.groups.first().map(Group::root_path).unwrap_or_default(),
            v1: self.groups.iter().map(|group| group.place().clone()).collect(),
            v2: self.unified.as_ref().map(|unified| unified.group().place().clone()),
            unit: None,
        }
    }
}

fn is_frozen(freezer: &Group) -> Result<bool> {
    Ok(freezer.read("freezer.state")?.trim() != "THAWED")
}

/// A new cpuset is empty, and nobody may enter an empty one.
fn inherit_cpuset(group: &Group) -> Result<()> {
    let Some(parent) = group.ancestors().last() else { return Ok(()) };
    for file in ["cpuset.cpus", "cpuset.mems"] {
        let inherited = parent.read(file)?;
        if inherited.trim().is_empty() {
            bail!("{} is empty, so no group below it can have processes", parent.path().join(file).display());
        }
        group.write(file, inherited.trim())?;
    }
    Ok(())
}

/// The default first, which forgets what the group has from its parent, then each exception.
fn set_devices(group: &Group, rules: &DeviceRules) -> Result<()> {
    let (default, exceptions) = match rules.default {
        Verdict::Deny => ("devices.deny", "devices.allow"),
        Verdict::Allow => ("devices.allow", "devices.deny"),
    };
    group.write(default, "a")?;
    if rules.exceptions.is_empty() {
        return Ok(());
    }
    let writer = group.writer(exceptions)?;
    rules.exceptions.iter().try_for_each(|exception| writer.write(&exception.to_string()))
}
