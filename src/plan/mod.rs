//! What would have to happen for a container to exist, as data.
//!
//! Runs outside, before anything is made. Pure: no system call, no file, no clock; `bundle.rs` and
//! `facts.rs` are the two that look at the world. `init/` walks [`Step`]s and `launch/` does the rest;
//! neither parses, looks up or validates.

#![deny(clippy::disallowed_methods)]

use std::ffi::{CStr, CString};
use std::path::PathBuf;

use cgroup::CgroupLayout;
use limits::Limits;
use resctrl::ResctrlPlan;
use seccomp::Filter;

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
mod tests;
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
    /// The user of this host who gets it, to make groups of its own below it.
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

/// What the child can do. Paths named `inside` are resolved below the container's root, by openat2(2).
#[derive(Debug)]
pub enum Action {
    // Into the namespaces
    /// Write `0` to every v1 hierarchy's `tasks`, through descriptors that the parent opened.
    EnterCgroups,
    /// setns(2) with a namespace file.
    Join {
        kind: Namespace,
        slot: Slot,
    },
    /// setns(2) with a pidfd: all namespaces of `flags` (`CLONE_NEW*`) at once.
    JoinProcess {
        slot: Slot,
        flags: i32,
    },
    /// unshare(2) with `CLONE_NEW*` flags.
    Unshare {
        flags: i32,
    },
    /// A new time namespace with these offsets in it: the text of `/proc/self/timens_offsets`.
    TimeOffsets {
        text: CString,
    },
    /// Tell the parent, and wait until it has done its part.
    Report(Moment),
    /// Become uid 0 and gid 0 of the user namespace.
    TakeRoot,
    /// Keep others in the namespaces from reading our memory and descriptors (CVE-2016-9962).
    Undumpable,
    /// `PR_SET_PDEATHSIG`: die with the runtime, or no longer.
    ParentDeath {
        signal: i32,
    },
    /// A new session keyring of this name; exhausted quotas are errors, a kernel without keyrings is not.
    SessionKeyring {
        name: CString,
    },
    LoopbackUp,

    // The root filesystem
    /// Fill a slot from inside, where the parent has no right to (an unprivileged user).
    OpenTree {
        /// The member of the configuration that asks for it.
        place: String,
        slot: Slot,
        source: CString,
        recursive: bool,
        follow: bool,
    },
    /// Make `/` propagate as told (a recursive `MS_SLAVE` or `MS_PRIVATE`), then put the root tree on `path`.
    MountRoot {
        slot: Slot,
        path: CString,
        propagation: u64,
    },
    Mount(Box<Mount>),
    /// A device node, unless the same one is there.
    Device {
        inside: CString,
        kind: DeviceKind,
        major: u32,
        minor: u32,
        mode: u32,
        uid: u32,
        gid: u32,
    },
    /// A symbolic link; what exists already stays, or makes room for it.
    Symlink {
        inside: CString,
        to: CString,
        replace: bool,
    },
    /// Allocate a terminal in the container's devpts, send its master to the parent's socket, bind it on
    /// `/dev/console` (when that is mounted at birth), and make it standard input, output and error.
    Terminal {
        size: Option<Terminal>,
        owner: u32,
        console: bool,
    },
    /// Replace the host's `/dev/null` on standard streams by the container's.
    ReopenNull,
    /// Hooks that run in the container; each reads `state` with the process's own pid in its middle.
    Hooks {
        point: HookPoint,
        hooks: Vec<Hook>,
        state: HookState,
        streams: HookStreams,
    },
    /// Write below `/proc/sys`, through the host's verified procfs.
    Sysctl {
        path: CString,
        value: CString,
    },
    ReadOnlyPath {
        inside: CString,
    },
    Mask {
        inside: CString,
    },
    /// Make a filesystem read-only at last: the mount that was kept in `slot`.
    ReadOnlyMount {
        slot: Slot,
    },
    ReadOnlyRoot,
    /// Make the working directory if it is missing.
    MakeDirectory {
        inside: CString,
        mode: u32,
    },
    /// Change the root: pivot_root(2), or move and chroot(2) where the root is a ramdisk.
    Pivot,
    MoveRoot,
    Chroot,
    /// The propagation of the container's `/` (`MS_SHARED`, ... as for mount(2)).
    RootPropagation {
        flags: u64,
    },

    // The process
    Session,
    Hostname {
        name: CString,
    },
    Domainname {
        name: CString,
    },
    /// Write `text` to `/proc/FILE` (thread-self/attr/exec and the like) through the host's verified procfs.
    Label {
        file: CString,
        text: CString,
    },
    Rlimit {
        resource: u32,
        soft: u64,
        hard: u64,
    },
    Scheduler(SchedulerAttributes),
    IoPriority {
        value: i32,
    },
    Personality {
        value: u64,
    },
    MemoryPolicy {
        mode: i32,
        nodes: Vec<u64>,
    },
    Affinity {
        mask: Vec<u8>,
    },
    NoNewPrivileges,
    /// Close every descriptor from `from` on, but those of the conversation, the gate and hooks to come.
    CloseDescriptors {
        from: u32,
        keep: HookStreams,
    },
    /// Load the container's filter; `early` when there is no no_new_privileges and privileges are needed.
    Seccomp {
        filter: Box<Filter>,
        early: bool,
    },
    /// setgroups(2), setgid(2), setuid(2), with permitted capabilities kept over it.
    SetUser {
        uid: u32,
        gid: u32,
        groups: Option<Vec<u32>>,
    },
    Umask {
        mask: u32,
    },
    Capabilities(CapabilitySets),
    /// chdir(2), and see that the place is below the root (CVE-2024-21626).
    WorkingDirectory {
        path: CString,
        /// The second attempt, for a place that the first may not enter.
        again: bool,
    },
    /// Add `HOME` to the environment: what `/etc/passwd` inside says about `uid`, else `/`.
    Home {
        uid: u32,
    },
    /// Find the first candidate that can be executed.
    FindExecutable {
        candidates: Vec<CString>,
        /// The program was named without a slash, and the candidates are where `PATH` leads.
        in_path: bool,
    },
    /// Wait at the start gate.
    WaitStart,
    Exec {
        arguments: Vec<CString>,
        environment: Vec<CString>,
    },
}

/// Points of the conversation at which the child waits for the parent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moment {
    /// In the runtime's own group still: the parent has systemd move it to its unit's.
    Placed,
    /// In its namespaces: the parent writes id maps and moves network devices.
    Entered,
    /// The root is assembled: the parent runs prestart and createRuntime hooks.
    Assembled,
    /// Nothing is left but the start gate or execve(2): the parent writes down what exists.
    Ready,
}

/// A mount to be made.
#[derive(Debug)]
pub struct Mount {
    pub inside: CString,
    pub what: MountWhat,
    /// `MOUNT_ATTR_*` to set and to clear on the mount itself, then on everything below it.
    pub set: u64,
    pub clear: u64,
    pub set_recursive: u64,
    pub clear_recursive: u64,
    /// `MS_SHARED | MS_REC` and the like, in order, each a call of its own.
    pub propagation: Vec<u64>,
    /// Copy what the root has at the target into the new filesystem (option `tmpcopyup`).
    pub copy_up: bool,
    /// A target that is there already gives its mode to the new filesystem (a tmpfs without `mode=`).
    pub adopt_mode: bool,
    /// A tree that is a symbolic link is not mounted: a link like it is made at the target (option `copy-symlink`).
    pub copy_symlink: bool,
    /// The slot that keeps the attached mount, for a later [`Action::ReadOnlyMount`].
    pub keep: Option<Slot>,
    /// The target's last component may be a symbolic link (false for proc and sysfs: CVE-2019-19921).
    pub follow: bool,
    /// The target may lie in a procfs. Only a destination that says so by its name may, not one that a symbolic link
    /// of the image leads there (CVE-2025-52881).
    pub onto_procfs: bool,
}

#[derive(Debug)]
pub enum MountWhat {
    /// fsopen(2), then each parameter, in order.
    Filesystem { kind: CString, parameters: Vec<Parameter> },
    /// A tree from a slot.
    Tree { slot: Slot },
    /// One file of the host, from a slot, which must be this device.
    Device { slot: Slot, kind: DeviceKind, major: u32, minor: u32 },
    /// The same filesystem that the host has there, when the kernel refuses a new one in a user namespace.
    FilesystemOrTree { kind: CString, parameters: Vec<Parameter>, slot: Slot },
    /// What is mounted at the target already: fspick(2) takes the parameters if there are any, then the
    /// mount takes its attributes (option `remount`).
    Remount { parameters: Vec<Parameter> },
}

/// One fsconfig(2) call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Parameter {
    Flag(CString),
    Text(CString, CString),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeviceKind {
    Character,
    Block,
    Fifo,
}

/// The fields of `struct sched_attr` (sched_setattr(2)); times in nanoseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SchedulerAttributes {
    pub policy: u32,
    pub flags: u64,
    pub nice: i32,
    pub priority: u32,
    pub runtime: u64,
    pub deadline: u64,
    pub period: u64,
}

/// The five sets as bit masks, bit n for capability n.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CapabilitySets {
    pub bounding: u64,
    pub effective: u64,
    pub permitted: u64,
    pub inheritable: u64,
    pub ambient: u64,
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
