//! What a step can be: the child's whole vocabulary, each word with all that it needs.
//!
//! Runs outside when it is planned, inside when it is taken. Data only.

use std::ffi::CString;

use nix::sys::resource::Resource;

use super::seccomp::Filter;
use super::{Hook, HookPoint, HookState, HookStreams, Namespace, Slot, Terminal};

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
    /// Let the owner of our user namespace look again: to join a first process that waits, where nobody else is.
    Dumpable,
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
        /// The entry of the configuration's list; none for what every container has.
        place: Option<String>,
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
        resource: Resource,
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
    /// The entry of the configuration's list; none for what every container has.
    pub place: Option<String>,
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
    /// The same for its owner, if it is copied (a tmpfs without `uid=` and `gid=`).
    pub adopt_owner: bool,
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
