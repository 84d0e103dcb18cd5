//! The v2 hierarchy: one group, whose controllers have to be enabled from the root down.
//!
//! Runs outside. On a hybrid host the group exists beside the v1 ones: as the birthplace, for `cgroup.kill`, and for
//! controllers that no v1 hierarchy has.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use anyhow::{Context, Result, bail};
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::unistd::Pid;

use super::group::{Claim, Group};
use super::oom::OomWatch;
use super::stats::{self, Stats};
use super::wait::Deadline;
use super::{Cgroup, PATIENCE, device_bpf, kill_each, settings};
use crate::plan::cgroup::{Location, Version};
use crate::plan::limits::{DeviceLimits, Setting};
use crate::sys::strerror;

/// The files that a delegate may have, one on a line; and those of a kernel without such a list (cgroups(7)).
const DELEGATED: &str = "/sys/kernel/cgroup/delegate";
const DELEGATED_ALWAYS: &str = "cgroup.procs\ncgroup.subtree_control\ncgroup.threads\n";
const CONTROL: &str = "cgroup.subtree_control";

pub struct V2 {
    group: Group,
    /// The group below it that the container is in, where it was given one to itself.
    delegate: Option<Group>,
    birthplace: Option<OwnedFd>,
    claim: Option<Claim>,
}

impl V2 {
    pub fn new(group: Group, delegate: Option<&Path>) -> V2 {
        let delegate = delegate.map(|path| group.below(path));
        V2 { group, delegate, birthplace: None, claim: None }
    }

    /// Where the container's processes are: in the group that is limited, or below it.
    fn home(&self) -> &Group {
        self.delegate.as_ref().unwrap_or(&self.group)
    }

    pub fn group(&self) -> &Group {
        &self.group
    }

    fn group_of(&self, setting: &Setting) -> Result<&Group> {
        match setting.version {
            Version::V2 => Ok(&self.group),
            Version::V1 => bail!("{}: {} is a file of cgroup v1", setting.field, setting.file),
        }
    }

    /// The group alone, with the controllers that it gets without asking.
    pub fn make(&mut self) -> Result<()> {
        self.group.make(join_threads)?;
        if self.group.is_found() {
            join_threads(&self.group)?;
        }
        self.refuse_frozen()?;
        let Some(delegate) = &mut self.delegate else { return Ok(()) };
        delegate.find()?;
        delegate.make(|_| Ok(()))
    }

    /// Nobody who is born below a frozen group ever runs.
    fn refuse_frozen(&self) -> Result<()> {
        for ancestor in self.group.ancestors().skip(1) {
            if ancestor.try_read("cgroup.freeze").is_ok_and(|frozen| frozen.trim() == "1") {
                bail!("{} is frozen, and so would the container be", ancestor.path().display());
            }
        }
        Ok(())
    }

    /// Have every group above hand these controllers down. What cannot be enabled is no error until a limit needs it.
    pub fn enable(&self, controllers: &[&str]) -> Result<()> {
        if controllers.is_empty() {
            return Ok(());
        }
        for ancestor in self.home().ancestors() {
            let enabled = ancestor.read(CONTROL)?;
            let missing: Vec<String> = controllers
                .iter()
                .filter(|controller| !lists(&enabled, controller))
                .map(|controller| format!("+{controller}"))
                .collect();
            // Even a write that changes nothing waits for controllers of removed groups to go offline.
            if missing.is_empty() {
                continue;
            }
            match ancestor.try_write(CONTROL, &missing.join(" ")) {
                // Nor does a group with processes hand any down: with some of them it would become one of threads.
                Ok(()) | Err(Errno::EBUSY) => {}
                Err(_) => {
                    for controller in missing {
                        // The reason is asked again, and said, by `why_missing`.
                        let _ = ancestor.try_write(CONTROL, &controller);
                    }
                }
            }
        }
        Ok(())
    }

    fn enable_all(&self) -> Result<()> {
        let controllers = &self.group.place().hierarchy.controllers;
        self.enable(&controllers.iter().map(String::as_str).collect::<Vec<_>>())
    }

    pub fn kill(&self) -> Result<()> {
        match self.group.try_write("cgroup.kill", "1") {
            // Whose first thread has ended is passed over.
            Ok(()) => kill_each(&self.group.pids()?),
            Err(Errno::ENOENT | Errno::ENODEV) => Ok(()),
            // A threaded group: nobody in it forks while it is held still.
            Err(Errno::EOPNOTSUPP) => {
                self.group.write("cgroup.freeze", "1")?;
                self.wait_for("frozen 1", &Deadline::after(PATIENCE / 10))?;
                kill_each(&self.group.pids()?)?;
                self.group.write("cgroup.freeze", "0")
            }
            Err(errno) => Err(errno).with_context(|| format!("kill all in {}", self.group.path().display())),
        }
    }

    /// Sleep until `cgroup.events` says so.
    fn wait_for(&self, event: &str, deadline: &Deadline) -> Result<bool> {
        let path = || self.group.path().join("cgroup.events");
        let events = match self.group.open(Path::new("cgroup.events"), OFlag::O_RDONLY) {
            Err(Errno::ENOENT) => return Ok(true),
            events => events.with_context(|| format!("open {}", path().display()))?,
        };
        loop {
            let mut text = [0; 256];
            let length = match nix::sys::uio::pread(&events, &mut text, 0) {
                // Removed meanwhile, so empty.
                Err(Errno::ENODEV) => return Ok(true),
                length => length.with_context(|| format!("read {}", path().display()))?,
            };
            if text[..length].split(|byte| *byte == b'\n').any(|line| line == event.as_bytes()) {
                return Ok(true);
            }
            if !deadline.changed(&events).with_context(|| format!("wait for {}", path().display()))? {
                return Ok(false);
            }
        }
    }

    pub fn remove_group(&self, deadline: &Deadline) -> Result<()> {
        if !self.group.is_lost() && !self.wait_for("populated 0", deadline)? {
            bail!("remove {}{}: it does not become empty", self.group.path().display(), self.group.holder()?);
        }
        self.group.remove(deadline)
    }
}

impl Cgroup for V2 {
    fn refuse_others(&self) -> Result<()> {
        if !self.group.is_found() {
            return Ok(());
        }
        self.group.refuse_processes()?;
        if self.is_frozen()? {
            bail!("{} exists already and is frozen", self.group.path().display());
        }
        Ok(())
    }

    fn create(&mut self) -> Result<()> {
        self.make()?;
        self.claim = Some(self.group.claim()?);
        self.enable_all()?;
        self.admit()
    }

    fn create_around(&mut self, pid: Pid) -> Result<()> {
        self.make()?;
        if !self.home().is_found() {
            self.home().write("cgroup.procs", &pid.to_string())?;
        }
        // Not before: a group hands nothing down while there are processes in it.
        self.enable_all()
    }

    fn admit(&mut self) -> Result<()> {
        self.birthplace = Some(self.home().directory()?);
        Ok(())
    }

    fn has_groups_below(&self) -> Result<bool> {
        self.group.has_groups_below()
    }

    fn birthplace(&self) -> Option<BorrowedFd<'_>> {
        self.birthplace.as_ref().map(AsFd::as_fd)
    }

    fn doors(&self) -> &[OwnedFd] {
        &[]
    }

    fn give_to(&self, owner: u32) -> Result<()> {
        let listed = std::fs::read_to_string(DELEGATED).unwrap_or_else(|_| DELEGATED_ALWAYS.to_string());
        ["."].into_iter().chain(listed.lines()).try_for_each(|file| self.home().give(file, owner))
    }

    fn restrict_devices(&self, devices: &DeviceLimits) -> Result<()> {
        device_bpf::attach(&self.group, &devices.rules)
    }

    fn set_limits(&self, settings: &[Setting]) -> Result<()> {
        settings::write_all(settings, |setting| self.group_of(setting))
    }

    fn present(&self, settings: &[Setting]) -> Result<Vec<Setting>> {
        settings::read_all(settings, |setting| self.group_of(setting))
    }

    fn restore(&self, kept: &[Setting]) -> Result<()> {
        settings::restore_all(kept, |setting| self.group_of(setting))
    }

    fn freeze(&self, frozen: bool) -> Result<()> {
        let (value, event) = if frozen { ("1", "frozen 1") } else { ("0", "frozen 0") };
        self.group.write("cgroup.freeze", value)?;
        if self.wait_for(event, &Deadline::after(PATIENCE))? {
            return Ok(());
        }
        let holder = self.group.holder()?;
        if frozen {
            self.group.write("cgroup.freeze", "0")?;
        }
        bail!("{} did not come to \"{event}\" in time{holder}", self.group.path().display())
    }

    fn is_frozen(&self) -> Result<bool> {
        Ok(self.group.read("cgroup.freeze")?.trim() == "1")
    }

    fn stats(&self) -> Result<Stats> {
        stats::v2::read(&self.group)
    }

    fn watch_oom(&self) -> Result<Option<OomWatch<'_>>> {
        OomWatch::v2(&self.group)
    }

    fn is_claimed(&self) -> Result<bool> {
        self.group.is_claimed()
    }

    fn pids(&self) -> Result<Vec<Pid>> {
        self.group.pids()
    }

    fn kill(&self) -> Result<()> {
        V2::kill(self)
    }

    fn remove(&self) -> Result<()> {
        self.remove_group(&Deadline::after(PATIENCE))
    }

    fn location(&self) -> Location {
        Location {
            root: self.group.root_path(),
            v1: Vec::new(),
            v2: Some(self.group.place().clone()),
            unit: None,
        }
    }
}

/// Below a threaded group nothing can be a domain of its own.
fn join_threads(group: &Group) -> Result<()> {
    if group.place().depth() > 1 && group.read("cgroup.type")?.trim() == "domain invalid" {
        group.write("cgroup.type", "threaded")?;
    }
    Ok(())
}

/// Why a group does not have a controller's files, for an error about one of them.
pub fn why_missing(group: &Group, controller: &str) -> Result<Option<String>> {
    if controller == "cgroup" || lists(&group.read("cgroup.controllers")?, controller) {
        return Ok(None);
    }
    for ancestor in group.ancestors() {
        let path = ancestor.path();
        if !lists(&ancestor.read("cgroup.controllers")?, controller) {
            return Ok(Some(format!("{} has no {controller} controller to hand down", path.display())));
        }
        if !lists(&ancestor.read(CONTROL)?, controller)
            && let Err(errno) = ancestor.try_write(CONTROL, &format!("+{controller}"))
        {
            let path = path.join(CONTROL);
            let hint = match errno {
                Errno::EBUSY => ": processes are in that group itself",
                Errno::EOPNOTSUPP => ": a group of threads cannot have it",
                Errno::EACCES | Errno::EPERM => ": the controller is not delegated to this user",
                _ => "",
            };
            return Ok(Some(format!(
                "write \"+{controller}\" to {}: {}{hint}",
                path.display(),
                strerror(errno)
            )));
        }
    }
    Ok(None)
}

fn lists(controllers: &str, controller: &str) -> bool {
    controllers.split_whitespace().any(|name| name == controller)
}
