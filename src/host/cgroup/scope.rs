//! Groups that systemd has made, as part of a scope: the unit above, and beneath it a tree as any other.
//!
//! Runs outside. systemd has a group where it keeps processes (on v1 in its own hierarchy and those that it uses); on
//! the others a group of the same path is ours to make and to remove.

use std::os::fd::{BorrowedFd, OwnedFd};

use anyhow::{Context, Result, bail};
use nix::unistd::Pid;

use super::group::Root;
use super::oom::OomWatch;
use super::stats::Stats;
use super::{Cgroup, of_pid, tree};
use crate::host::systemd::{Systemd, bus_of};
use crate::plan::GroupPlan;
use crate::plan::cgroup::{CgroupLayout, Hierarchy, Location, Place, Unit};
use crate::plan::limits::{DeviceLimits, Setting};
use crate::plan::systemd::{self, properties};

pub struct Scope {
    unit: Unit,
    groups: Box<dyn Cgroup>,
    /// The process that the unit was made around, until it is where it belongs.
    newcomer: Option<Pid>,
}

impl Scope {
    /// The groups of a unit that is there.
    pub fn reopen(unit: &Unit, groups: Box<dyn Cgroup>) -> Scope {
        Scope { unit: unit.clone(), groups, newcomer: None }
    }

    fn tell(&self, settings: &[Setting]) -> Result<()> {
        let properties = properties::of(settings);
        if properties.is_empty() { Ok(()) } else { Systemd::connect(&self.unit)?.set(&properties) }
    }
}

/// What a scope will be called, and by whom.
pub fn unit(scope: &systemd::Scope) -> Result<Unit> {
    Ok(Unit { name: scope.name.clone(), manager: scope.manager, bus: bus_of(scope.manager)? })
}

/// Have systemd make the unit, with all that it is to know of the limits, and this process in it. The process must wait
/// until [`Cgroup::create`] has made the rest. On an error there is no unit. If we are killed the process ends with us,
/// and systemd may collect the scope that nobody is in, or not know of that (252, asked for one around the dead).
pub fn start(plan: &GroupPlan, scope: &systemd::Scope, pid: i32) -> Result<Scope> {
    let unit = unit(scope)?;
    Systemd::connect(&unit)?.start(&scope.properties, pid)?;
    let pid = Pid::from_raw(pid);
    match look(plan, scope, pid) {
        Ok(groups) => Ok(Scope { unit, groups, newcomer: Some(pid) }),
        Err(error) => Err(match Systemd::connect(&unit).and_then(|mut systemd| systemd.stop()) {
            Ok(()) => error,
            Err(also) => error.context(format!("(and could not stop the unit: {also:#})")),
        }),
    }
}

/// The groups of the unit that a process has just been moved to, and what of them is there already.
fn look(plan: &GroupPlan, scope: &systemd::Scope, pid: Pid) -> Result<Box<dyn Cgroup>> {
    let layout = &plan.layout;
    let root = Root::open(&layout.root)?;
    let own = of_pid(&Location { root: layout.root.clone(), ..of_systemd(layout)? }, pid)?;
    let place =
        own.v1.into_iter().chain(own.v2).next().context("systemd uses no hierarchy that is mounted")?;
    if place.path.file_name() != Some(scope.name.as_ref()) {
        bail!("systemd has put process {pid} into {}, and not into {}", place.path.display(), scope.name);
    }
    let mut path = place.path;
    path.extend(scope.subgroup.iter().filter(|_| layout.v1.is_empty()));
    let survey = |hierarchy: &Hierarchy| -> Result<Place> {
        let found = root.survey(&hierarchy.directory, &path)?;
        Ok(Place { hierarchy: hierarchy.clone(), path: path.clone(), found })
    };
    let location = Location {
        root: layout.root.clone(),
        v1: layout.v1.iter().map(survey).collect::<Result<_>>()?,
        v2: layout.v2.as_ref().map(survey).transpose()?,
        unit: None,
    };
    tree(&root, &location, plan.delegate.as_deref())
}

/// The hierarchy in which systemd keeps track of processes: its own one of v1, or the only one there is.
fn of_systemd(layout: &CgroupLayout) -> Result<Location> {
    let place = |hierarchy: &Hierarchy| Place { hierarchy: hierarchy.clone(), path: "".into(), found: 0 };
    let named = layout.v1.iter().find(|one| one.controllers.iter().any(|name| name == "name=systemd"));
    let v2 = layout.v2.as_ref().filter(|_| layout.v1.is_empty());
    Ok(Location {
        root: layout.root.clone(),
        v1: named.map(place).into_iter().collect(),
        v2: v2.map(place),
        unit: None,
    })
}

impl Cgroup for Scope {
    /// systemd has: it makes no unit twice.
    fn refuse_others(&self) -> Result<()> {
        Ok(())
    }

    fn create(&mut self) -> Result<()> {
        match self.newcomer {
            Some(pid) => self.groups.create_around(pid),
            None => self.groups.create(),
        }
    }

    fn create_around(&mut self, pid: Pid) -> Result<()> {
        self.groups.create_around(pid)
    }

    fn admit(&mut self) -> Result<()> {
        self.groups.admit()
    }

    fn has_groups_below(&self) -> Result<bool> {
        self.groups.has_groups_below()
    }

    fn birthplace(&self) -> Option<BorrowedFd<'_>> {
        self.groups.birthplace()
    }

    fn doors(&self) -> &[OwnedFd] {
        self.groups.doors()
    }

    fn give_to(&self, owner: u32) -> Result<()> {
        self.groups.give_to(owner)
    }

    fn restrict_devices(&self, devices: &DeviceLimits) -> Result<()> {
        self.groups.restrict_devices(devices)
    }

    /// A new unit knows them; their files are written all the same, for what has no property and what systemd rounds.
    fn set_limits(&self, settings: &[Setting]) -> Result<()> {
        if self.newcomer.is_none() {
            self.tell(settings)?;
        }
        self.groups.set_limits(settings)
    }

    fn present(&self, settings: &[Setting]) -> Result<Vec<Setting>> {
        self.groups.present(settings)
    }

    fn restore(&self, kept: &[Setting]) -> Result<()> {
        let told = self.tell(kept);
        self.groups.restore(kept).and(told)
    }

    fn freeze(&self, frozen: bool) -> Result<()> {
        self.groups.freeze(frozen)
    }

    fn is_frozen(&self) -> Result<bool> {
        self.groups.is_frozen()
    }

    fn stats(&self) -> Result<Stats> {
        self.groups.stats()
    }

    fn watch_oom(&self) -> Result<Option<OomWatch<'_>>> {
        self.groups.watch_oom()
    }

    fn is_claimed(&self) -> Result<bool> {
        self.groups.is_claimed()
    }

    fn pids(&self) -> Result<Vec<Pid>> {
        self.groups.pids()
    }

    fn kill(&self) -> Result<()> {
        self.groups.kill()
    }

    fn remove(&self) -> Result<()> {
        self.groups.remove()?;
        Systemd::connect(&self.unit)?.stop()
    }

    fn location(&self) -> Location {
        Location { unit: Some(self.unit.clone()), ..self.groups.location() }
    }
}

/// Move a guest into the container's unit, which a user may not do by hand from outside of what is delegated.
pub fn attach(location: &Location, pid: i32) -> Result<()> {
    let unit = location.unit.as_ref().context("the container has no unit")?;
    let inside = location.v2.as_ref().and_then(|place| {
        let mut components = place.path.iter();
        components.find(|name| name.to_str() == Some(&unit.name))?;
        Some(format!("/{}", components.as_path().display()))
    });
    Systemd::connect(unit)?.attach(&inside.unwrap_or_default(), pid)
}
