//! The order of a container's life: which step follows which, and why.
//!
//! Runs outside. Each subject's planner says what its steps are; only this file says when they come.

use std::ffi::CString;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use oci_spec::runtime::Process;

use super::facts::Authority;
use super::namespaces::Place;
use super::request::{Cgroups, Request};
use super::{
    Action, Enter, GroupPlan, HookPoint, HookStreams, IdMap, Moment, Namespace, Open, Outside, Plan, Slot,
    Step, When, annotations, capabilities, cgroup, confinement, devices, hooks, mounts, namespaces, netdev,
    process, resctrl, rlimits, rootfs, scheduling, sysctl,
};

/// The birth of a container.
pub fn birth(request: &Request) -> Result<Plan> {
    let mut steps = Steps::new(request.facts.authority);
    steps.outside.annotations = annotations::all(request.spec);
    request.warnings.iter().for_each(|warning| steps.warn(warning.clone()));
    cgroup::check_driver(request)?;
    let cgroup = cgroup::plan(request).context("config.json")?;
    if request.options.cgroups == Cgroups::Disabled {
        cgroup::warn_of_no_limits(request, &mut steps).context("config.json")?;
    }
    // Where the group may be denied, nothing may count on it.
    let certain = |group: &&GroupPlan| request.facts.authority == Authority::Root || !group.can_do_without();
    let path = cgroup.as_ref().filter(certain).map(|group| group.path.as_path());
    let resctrl = resctrl::plan(request).context("config.json")?;
    order_of_birth(request, path, &mut steps).context("config.json")?;
    Ok(Plan { cgroup, resctrl, ..steps.finish() })
}

/// One more process in the container whose first process is `init_pid`.
pub fn guest(request: &Request, process: &Process, init_pid: i32) -> Result<Plan> {
    let mut steps = Steps::of_a_guest(request.facts.authority);
    steps.outside.annotations = annotations::all(request.spec);
    request.warnings.iter().for_each(|warning| steps.warn(warning.clone()));
    order_of_guest(request, process, init_pid, &mut steps)?;
    Ok(steps.finish())
}

fn order_of_birth(request: &Request, group: Option<&Path>, steps: &mut Steps) -> Result<()> {
    annotations::check(request.spec)?;
    let process = request.spec.process().as_ref().context("process: missing")?;
    hooks::plan_outside(request, steps)?;
    hooks::plan_streams(request, steps)?;
    plan_oom_score(request, process, steps)?;

    netdev::plan(request, steps)?;
    arrive(request, steps);
    namespaces::plan(request, steps)?;
    if request.place(Namespace::User) != Place::Inherited {
        // Becoming another user takes the order back.
        steps.birth(Action::ParentDeath { signal: libc::SIGKILL });
    }
    // Not before: the id maps of a process that cannot be read can only be written by root.
    steps.every(Action::Undumpable);
    settle(request, process, steps)?;
    if request.place(Namespace::Network) == Place::New {
        steps.birth(Action::LoopbackUp);
    }

    // Everything inside is reached through the root's descriptor while the host's paths are still there.
    rootfs::plan(request, steps)?;
    mounts::plan(request, group, steps)?;
    devices::plan(request, steps)?;
    if !steps.outside.prestart.is_empty() || !steps.outside.create_runtime.is_empty() {
        steps.birth(Action::Report(Moment::Assembled));
    }
    hooks::plan_inside(request, HookPoint::CreateContainer, steps)?;
    sysctl::plan(request, steps)?;
    // After the hooks, whose words are for the runtime's own streams.
    process::plan_terminal(request, process, steps)?;
    steps.birth(Action::ReopenNull);
    process::plan_directory(process, steps)?;
    // From here on nothing is made inside: first whole filesystems, then parts of them, then the root.
    steps.make_read_only();
    rootfs::plan_hidden_paths(request, steps)?;
    rootfs::plan_read_only(request, steps);
    rootfs::plan_entry(request, steps)?;
    sysctl::plan_names(request, steps)?;
    become_process(request, process, steps)
}

fn order_of_guest(request: &Request, process: &Process, init_pid: i32, steps: &mut Steps) -> Result<()> {
    let affinity = process.exec_cpu_affinity().as_ref();
    if let Some(cpus) = affinity.and_then(|affinity| affinity.initial().as_deref()) {
        steps.outside.affinity = Some(scheduling::mask(cpus).context("process.execCPUAffinity.initial")?);
    }
    plan_oom_score(request, process, steps)?;
    arrive(request, steps);
    // CVE-2016-9962: the container must not look into us from the moment it can see us.
    steps.every(Action::Undumpable);
    namespaces::plan_guest(request, init_pid, steps);
    if request.place(Namespace::User) != Place::Inherited {
        // Becoming another user takes both back.
        steps.every(Action::ParentDeath { signal: libc::SIGKILL });
        steps.every(Action::Undumpable);
    }
    settle(request, process, steps)?;
    process::plan_terminal(request, process, steps)?;
    if let Some(cpus) = affinity.and_then(|affinity| affinity.cpu_affinity_final().as_deref()) {
        let mask = scheduling::mask(cpus).context("process.execCPUAffinity.final")?;
        steps.every(Action::Affinity { mask });
    }
    become_process(request, process, steps)
}

/// Whether a user who is not root can run a guest beside a first process that waits: the user must be able to look into
/// that one, and then so can the guest. It is alone until then, and has nothing of the host open.
fn may_be_joined_early(request: &Request, keep: HookStreams) -> bool {
    let new = |kind| request.place(kind) == Place::New;
    request.facts.authority == Authority::User
        && new(Namespace::User)
        && new(Namespace::Pid)
        && keep == HookStreams::default()
}

/// From -1000, never killed, to 1000, killed first (proc(5)). Engines pass on what only the host's root may lower.
fn plan_oom_score(request: &Request, process: &Process, steps: &mut Steps) -> Result<()> {
    let Some(score) = process.oom_score_adj() else { return Ok(()) };
    ensure!((-1000..=1000).contains(&score), "process.oomScoreAdj: {score} is not between -1000 and 1000");
    steps.outside.oom_score_adj = Some(score);
    steps.outside.oom_score_by_birth = request.facts.authority != Authority::Root;
    Ok(())
}

/// The cgroup comes first: whatever follows is accounted for, and a cgroup namespace is rooted there.
fn arrive(request: &Request, steps: &mut Steps) {
    steps.every(Action::EnterCgroups);
    steps.every(Action::ParentDeath { signal: libc::SIGKILL });
    if request.options.cgroups == Cgroups::Systemd {
        steps.every(Action::Report(Moment::Placed));
    }
}

/// A session before a terminal, which only a session's leader can control; a keyring before anything uses it.
fn settle(request: &Request, process: &Process, steps: &mut Steps) -> Result<()> {
    steps.every(Action::Session);
    confinement::plan_keyring(request, process, steps)
}

/// From root of a container to the process that its author wants. Rights are given up in the order in which
/// the next step no longer needs them.
fn become_process(request: &Request, process: &Process, steps: &mut Steps) -> Result<()> {
    process::plan_home(process, steps);
    confinement::plan_labels(request, process, steps)?;
    rlimits::plan(process, steps)?;
    scheduling::plan(request, process, steps)?;
    confinement::plan_personality(request, steps)?;
    confinement::plan_no_new_privileges(process, steps);
    let last = HookPoint::StartContainer;
    let keep = if steps.is_birth() && hooks::are_listed(request, last) {
        steps.hook_streams
    } else {
        HookStreams::default()
    };
    process::plan_descriptors(request, keep, steps);
    // A filter sees as little of us as can be.
    let (early, late) = match confinement::filter(request, process, steps)? {
        Some((filter, true)) => (Some(filter), None),
        Some((filter, false)) => (None, Some(filter)),
        None => (None, None),
    };
    process::plan_place(process, false, steps)?;
    if let Some(filter) = early {
        steps.every(Action::Seccomp { filter, early: true });
    }
    process::plan_user(request, process, steps)?;
    process::plan_umask(process, steps)?;
    capabilities::plan(request, process, steps)?;
    // As the user: what it may enter and execute is for the kernel to say.
    process::plan_place(process, true, steps)?;
    process::plan_executable(process, steps)?;
    steps.every(Action::ParentDeath { signal: 0 });
    if may_be_joined_early(request, keep) {
        steps.birth(Action::Dumpable);
    }
    if let Some(filter) = late {
        steps.every(Action::Seccomp { filter, early: false });
    }
    steps.every(Action::Report(Moment::Ready));
    steps.birth(Action::WaitStart);
    hooks::plan_inside(request, HookPoint::StartContainer, steps)?;
    let listen = if steps.is_birth() { request.options.listen.as_ref() } else { None };
    process::plan_exec(process, listen, steps)
}

/// A plan in the making. Steps are kept in the order in which they are added.
#[derive(Debug)]
pub struct Steps {
    pub enter: Enter,
    pub outside: Outside,
    pub hook_streams: HookStreams,
    open: Vec<(Slot, Open)>,
    slots: usize,
    steps: Vec<Step>,
    warnings: Vec<String>,
    /// Mounts that become read-only when everything below them exists.
    read_only_later: Vec<Slot>,
    /// Trees that init must open itself, since the parent has no right to.
    trees_inside: Vec<Action>,
    /// The step before which it does.
    trees_come_at: usize,
    authority: Authority,
    /// Whose steps these are: a birth has all of them, a guest those of every process.
    of: When,
}

impl Steps {
    pub fn new(authority: Authority) -> Steps {
        Steps {
            enter: Enter::default(),
            outside: Outside::default(),
            hook_streams: HookStreams::default(),
            open: Vec::new(),
            slots: 0,
            steps: Vec::new(),
            warnings: Vec::new(),
            read_only_later: Vec::new(),
            trees_inside: Vec::new(),
            trees_come_at: 0,
            authority,
            of: When::Birth,
        }
    }

    /// Those of a container's first process alone are left out.
    pub fn of_a_guest(authority: Authority) -> Steps {
        Steps { of: When::Every, ..Steps::new(authority) }
    }

    pub fn is_birth(&self) -> bool {
        self.of == When::Birth
    }

    /// A step of the container's first process alone.
    pub fn birth(&mut self, action: Action) {
        if self.is_birth() {
            self.steps.push(Step { when: When::Birth, action });
        }
    }

    /// A step of every process in the container.
    pub fn every(&mut self, action: Action) {
        self.steps.push(Step { when: When::Every, action });
    }

    /// A slot that a step fills.
    pub fn slot(&mut self) -> Slot {
        self.slots += 1;
        Slot(self.slots - 1)
    }

    /// Have the parent open something before the clone.
    pub fn open(&mut self, open: Open) -> Slot {
        let slot = self.slot();
        self.open.push((slot, open));
        slot
    }

    /// A detached copy of a tree of the host, opened by the parent, or by init before it mounts anything
    /// where the parent is nobody (an idmapped copy always needs the parent).
    pub fn tree(
        &mut self,
        place: &str,
        source: CString,
        recursive: bool,
        follow: bool,
        idmap: Option<IdMap>,
    ) -> Slot {
        if self.authority == Authority::User && idmap.is_none() {
            let slot = self.slot();
            self.trees_inside.push(Action::OpenTree {
                place: place.to_string(),
                slot,
                source,
                recursive,
                follow,
            });
            slot
        } else {
            self.open(Open::Tree { place: place.to_string(), source, recursive, follow, idmap })
        }
    }

    /// The trees that are init's to open, those asked for later included, come here.
    pub fn open_trees_here(&mut self) {
        self.trees_come_at = self.steps.len();
    }

    /// Make the mount kept in `slot` read-only after the last thing that writes below it.
    pub fn read_only_later(&mut self, slot: Slot) {
        self.read_only_later.push(slot);
    }

    fn make_read_only(&mut self) {
        for slot in std::mem::take(&mut self.read_only_later) {
            self.birth(Action::ReadOnlyMount { slot });
        }
    }

    /// A known oddity that the specification says is not an error.
    pub fn warn(&mut self, warning: String) {
        self.warnings.push(warning);
    }

    pub fn finish(mut self) -> Plan {
        let at = self.trees_come_at;
        let trees = self.trees_inside.into_iter().map(|action| Step { when: When::Birth, action });
        self.steps.splice(at..at, trees);
        Plan {
            open: self.open,
            slots: self.slots,
            enter: self.enter,
            steps: self.steps,
            outside: self.outside,
            cgroup: None,
            resctrl: None,
            warnings: self.warnings,
        }
    }
}

/// What planners added, for their tests.
#[cfg(test)]
impl Steps {
    pub fn listed(&self) -> &[Step] {
        &self.steps
    }

    pub fn opened(&self) -> &[(Slot, Open)] {
        &self.open
    }

    pub fn opened_inside(&self) -> &[Action] {
        &self.trees_inside
    }

    pub fn deferred(&self) -> &[Slot] {
        &self.read_only_later
    }
}
