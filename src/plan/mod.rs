//! What would have to happen for a container to exist, as data.
//!
//! Runs outside, before anything is made. Pure: no system call, no file, no clock; `bundle.rs` and
//! `facts.rs` are the two that look at the world. `init/` walks [`Step`]s and `launch/` does the rest;
//! neither parses, looks up or validates.

#![deny(clippy::disallowed_methods)]

use std::ffi::{CStr, CString};
use std::path::PathBuf;

pub use action::{
    Action, CapabilitySets, DeviceKind, Moment, Mount, MountWhat, Parameter, SchedulerAttributes,
};
use annotations::Annotations;
use cgroup::CgroupLayout;
use limits::Limits;
use resctrl::ResctrlPlan;

mod action;
pub mod annotations;
pub mod bundle;
pub mod capabilities;
pub mod cgroup;
pub mod cgroup_mounts;
pub mod checkpoint;
pub mod confinement;
pub mod criu;
pub mod device_rules;
pub mod devices;
pub mod facts;
pub mod features;
pub mod filesystem;
pub mod guest;
pub mod hooks;
pub mod idmap;
pub mod limits;
pub mod mount_options;
pub mod mounts;
pub mod namespaces;
pub mod netdev;
pub mod notify;
pub mod print;
pub mod process;
pub mod request;
pub mod resctrl;
pub mod rlimits;
pub mod rootfs;
pub mod scheduling;
pub mod seccomp;
pub mod steps;
pub mod sysctl;
pub mod systemd;
#[cfg(test)]
mod testing;
#[cfg(test)]
pub mod tests;
mod typed;
pub mod update;

/// An index into the table of descriptors that the parent opened before the first step, or that a step fills.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slot(pub usize);

/// One container's birth, or one more process in it.
#[derive(Debug)]
pub struct Plan {
    /// What the parent opens before it clones, each into its slot.
    pub open: Vec<(Slot, Open)>,
    /// How many slots there are: those of `open`, and those that steps fill.
    pub slots: usize,
    pub enter: Enter,
    pub steps: Vec<Step>,
    pub outside: Outside,
    /// Where the process belongs, and what is limited there; `None` for a guest (it goes where init is).
    pub cgroup: Option<GroupPlan>,
    /// The resource control group, if one is asked for; a guest goes where the container is.
    pub resctrl: Option<ResctrlPlan>,
    /// Known oddities that the specification says are not errors.
    pub warnings: Vec<String>,
}

impl Plan {
    /// Where the root is mounted for everybody to see, if the container has no mount namespace of its own.
    pub fn host_mount(&self) -> Option<&CStr> {
        self.steps.iter().find(|step| matches!(step.action, Action::Chroot))?;
        self.steps.iter().find_map(|step| match &step.action {
            Action::MountRoot { path, .. } => Some(path.as_c_str()),
            _ => None,
        })
    }

    /// Whether it is a container's, and not one more process's.
    pub fn is_birth(&self) -> bool {
        self.steps.iter().any(|step| step.when == When::Birth)
    }

    /// The first descriptor that closes when the process begins; those below are given to it on purpose.
    pub fn first_closed(&self) -> u32 {
        let from = |step: &Step| match step.action {
            Action::CloseDescriptors { from, .. } => Some(from),
            _ => None,
        };
        self.steps.iter().find_map(from).unwrap_or(3)
    }
}

/// What the parent does to the child from outside, while the child makes its namespaces.
#[derive(Debug, Default)]
pub struct Outside {
    /// `/proc/PID/oom_score_adj`; only a process outside a user namespace may lower it.
    pub oom_score_adj: Option<i32>,
    /// A user may not write it to a process that nobody may look into: the child is born with it, and where it may
    /// not be lowered it stays as it is.
    pub oom_score_by_birth: bool,
    pub uid_map: Vec<IdMapping>,
    pub gid_map: Vec<IdMapping>,
    /// Write `deny` to `/proc/PID/setgroups` first (an unprivileged gid map, user_namespaces(7)).
    pub deny_setgroups: bool,
    /// The maps are written by newuidmap(1) and newgidmap(1).
    pub map_with_helpers: bool,
    /// Moved from the host's network namespace to the container's.
    pub net_devices: Vec<NetDevice>,
    /// What hooks and seccomp agents are told of the container, beside its state.
    pub annotations: Annotations,
    pub prestart: Vec<Hook>,
    pub create_runtime: Vec<Hook>,
    pub poststart: Vec<Hook>,
    pub poststop: Vec<Hook>,
    /// The CPUs that we run on ourselves while we make a guest, which its group may exclude; bit n is CPU n.
    pub affinity: Option<Vec<u8>>,
    /// The terminal's first size, and whether there is one.
    pub terminal: Option<Terminal>,
}

/// A network device on its way into the container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetDevice {
    pub host: CString,
    /// Its name in the container, with at most one `%d` that the kernel makes a number of.
    pub inside: CString,
}

/// A control group to be made, and its limits.
#[derive(Debug)]
pub struct GroupPlan {
    /// The hierarchies of this host.
    pub layout: CgroupLayout,
    /// Relative to the mount point of every hierarchy, without a leading slash.
    pub path: PathBuf,
    pub limits: Limits,
    /// The configuration names the group, so the container cannot do without it.
    pub required: bool,
    /// Asked for by a user without root, who can make it only where groups are delegated.
    pub delegated: bool,
    /// Systemd makes the group, as part of this unit, when the first process is there to be put into it.
    pub scope: Option<systemd::Scope>,
    /// A group below it, which has its limits and no others, and in which the container is.
    pub delegate: Option<PathBuf>,
    /// The user of this host who gets the container's group, to make groups of its own below it.
    pub owner: Option<u32>,
}

impl GroupPlan {
    /// Whether a container lives without the group where a user may make none.
    pub fn can_do_without(&self) -> bool {
        !self.required && self.limits.is_empty()
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IdMapping {
    pub inside: u32,
    pub outside: u32,
    pub count: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Terminal {
    pub rows: u16,
    pub columns: u16,
}

/// Something that the parent opens before the clone.
#[derive(Debug)]
pub enum Open {
    /// A detached copy of a mount or a directory tree, by open_tree(2).
    /// `place` is where the configuration asks for it.
    Tree { place: String, source: CString, recursive: bool, follow: bool, idmap: Option<IdMap> },
    /// A namespace file, checked to be of the type that was asked for.
    Namespace { kind: Namespace, path: CString },
    /// The process whose namespaces a guest joins.
    Pidfd { pid: i32 },
    /// A file of the host's that what hooks print is added to.
    HookOutput { path: CString },
    /// A directory of the caller's for a checkpoint's files, made if it is missing and may be.
    Directory { path: CString, make: bool },
    /// The caller's standard input, output or error.
    Stream { number: i32 },
}

/// The mappings of an idmapped mount (config.md, mounts: `uidMappings`, `gidMappings`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IdMap {
    pub uids: Vec<IdMapping>,
    pub gids: Vec<IdMapping>,
    pub recursive: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Namespace {
    User,
    Cgroup,
    Ipc,
    Uts,
    Network,
    Pid,
    Mount,
    Time,
}

/// How the child comes to be in its namespaces.
#[derive(Debug, Default)]
pub struct Enter {
    /// `CLONE_NEW*` flags for clone3(2); never the cgroup or the time namespace, which the child makes itself.
    pub clone: u64,
    /// Namespaces that are entered before the clone, in this order: a pid namespace takes a clone, and a child born in
    /// a new user namespace has no right to join what older ones own. The parent enters them and comes back.
    pub ahead: Vec<(Namespace, Slot)>,
    /// Nobody could come back: a stand-in enters them, and clones init with `CLONE_PARENT`.
    pub stand_in: bool,
}

/// One step of the child's walk.
#[derive(Debug)]
pub struct Step {
    pub when: When,
    pub action: Action,
}

/// Whether only a container's first process takes a step, or every process does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum When {
    Birth,
    Every,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HookPoint {
    Prestart,
    CreateRuntime,
    CreateContainer,
    StartContainer,
    Poststart,
    Poststop,
}

/// A program to run at a point of a container's life (config.md, POSIX-platform hooks).
#[derive(Clone, Debug)]
pub struct Hook {
    pub path: CString,
    pub arguments: Vec<CString>,
    /// `None`: the runtime's own.
    pub environment: Option<Vec<CString>>,
    pub timeout_ms: Option<u64>,
    /// Files of the host's that what it prints is added to; else its last words are for the error.
    pub stdout: Option<CString>,
    pub stderr: Option<CString>,
}

/// Where hooks that run in the container print to, when the configuration says where.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HookStreams {
    pub stdout: Option<Slot>,
    pub stderr: Option<Slot>,
}

/// A container's state in JSON, around the pid (which only the process itself knows in its namespace).
#[derive(Clone, Debug)]
pub struct HookState {
    pub before_pid: Vec<u8>,
    pub after_pid: Vec<u8>,
}
