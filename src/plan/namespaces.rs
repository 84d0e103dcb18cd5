//! Namespaces: which are made, which are joined, in which order, and by whom.
//!
//! Runs outside. Owns the table of kinds, which `features` prints, and the shape of [`Enter`](super::Enter).

use std::ffi::CString;
use std::path::Path;

use anyhow::{Result, bail, ensure};
use oci_spec::runtime::{LinuxIdMapping, LinuxNamespaceType, LinuxTimeOffset};

use super::facts::Authority;
use super::request::{Request, c_string};
use super::steps::Steps;
use super::{Action, IdMapping, Moment, Namespace, Open, idmap};

/// A kind of namespace.
#[derive(Debug)]
pub struct Kind {
    pub namespace: Namespace,
    /// In a configuration.
    pub name: &'static str,
    /// In `/proc/PID/ns` (namespaces(7)).
    pub file: &'static str,
    /// `CLONE_NEW*`
    pub flag: i32,
}

/// In the order in which they are joined: the user namespace gives the right to the others, and the mount
/// namespace takes the host's paths away.
pub const KINDS: &[Kind] = &[
    kind(Namespace::User, "user", "user", libc::CLONE_NEWUSER),
    kind(Namespace::Cgroup, "cgroup", "cgroup", libc::CLONE_NEWCGROUP),
    kind(Namespace::Ipc, "ipc", "ipc", libc::CLONE_NEWIPC),
    kind(Namespace::Uts, "uts", "uts", libc::CLONE_NEWUTS),
    kind(Namespace::Network, "network", "net", libc::CLONE_NEWNET),
    kind(Namespace::Pid, "pid", "pid", libc::CLONE_NEWPID),
    kind(Namespace::Time, "time", "time", libc::CLONE_NEWTIME),
    kind(Namespace::Mount, "mount", "mnt", libc::CLONE_NEWNS),
];

const fn kind(namespace: Namespace, name: &'static str, file: &'static str, flag: i32) -> Kind {
    Kind { namespace, name, file, flag }
}

/// Which namespace of a kind the container lives in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place<'a> {
    /// The runtime's own.
    Inherited,
    New,
    Joined(&'a Path),
}

impl Namespace {
    pub fn kind(self) -> &'static Kind {
        KINDS.iter().find(|kind| kind.namespace == self).expect("the table holds every namespace")
    }

    /// Its name in a configuration.
    pub fn name(self) -> &'static str {
        self.kind().name
    }

    /// The `CLONE_NEW*` flag.
    pub fn flag(self) -> i32 {
        self.kind().flag
    }
}

impl From<LinuxNamespaceType> for Namespace {
    fn from(kind: LinuxNamespaceType) -> Namespace {
        match kind {
            LinuxNamespaceType::User => Namespace::User,
            LinuxNamespaceType::Cgroup => Namespace::Cgroup,
            LinuxNamespaceType::Ipc => Namespace::Ipc,
            LinuxNamespaceType::Uts => Namespace::Uts,
            LinuxNamespaceType::Network => Namespace::Network,
            LinuxNamespaceType::Pid => Namespace::Pid,
            LinuxNamespaceType::Mount => Namespace::Mount,
            LinuxNamespaceType::Time => Namespace::Time,
        }
    }
}

impl<'a> Request<'a> {
    pub fn place(&self, kind: Namespace) -> Place<'a> {
        let listed = self.linux().and_then(|linux| linux.namespaces().as_deref()).unwrap_or_default();
        match listed.iter().find(|namespace| Namespace::from(namespace.typ()) == kind) {
            // Nothing else gives a user without root any rights.
            None if kind == Namespace::User && self.facts.authority == Authority::User => Place::New,
            None => Place::Inherited,
            Some(namespace) => match namespace.path() {
                Some(path) if !path.as_os_str().is_empty() => Place::Joined(path),
                _ => Place::New,
            },
        }
    }

    /// Whether the container's processes lack the rights of the initial user namespace: no device nodes,
    /// no filesystems but those that allow it, and locked mount flags.
    pub fn in_user_namespace(&self) -> bool {
        self.facts.authority != Authority::Root || self.place(Namespace::User) != Place::Inherited
    }
}

pub fn plan(request: &Request, steps: &mut Steps) -> Result<()> {
    check(request)?;
    if let Some(maps) = maps(request)? {
        steps.outside.uid_map = maps.uids;
        steps.outside.gid_map = maps.gids;
        steps.outside.map_with_helpers = maps.helpers;
        steps.outside.deny_setgroups = maps.deny_setgroups;
    }
    let user = request.place(Namespace::User);
    let joined_user = matches!(user, Place::Joined(_));
    let unprivileged = request.facts.authority == Authority::User;
    // A pid namespace takes a clone, and what is to belong to the joined user namespace, or needs its rights,
    // must wait until that is entered.
    let user_ahead = joined_user
        && match request.place(Namespace::Pid) {
            Place::Inherited => false,
            Place::New => true,
            Place::Joined(_) => unprivileged,
        };
    let born_in_user_namespace = user == Place::New || user_ahead;

    let mut made = 0;
    let mut joined = Vec::new();
    for kind in KINDS {
        match request.place(kind.namespace) {
            Place::Inherited => {}
            Place::New => made |= kind.namespace.flag(),
            Place::Joined(path) => {
                let path = c_string(path.as_os_str().as_encoded_bytes())?;
                let slot = steps.open(Open::Namespace { kind: kind.namespace, path });
                let ahead = match kind.namespace {
                    Namespace::User => user_ahead,
                    Namespace::Pid => true,
                    Namespace::Mount => false,
                    _ => born_in_user_namespace && !unprivileged,
                };
                if ahead { &mut steps.enter.ahead } else { &mut joined }.push((kind.namespace, slot));
            }
        }
    }
    if !unprivileged {
        // Root may join anything, but no longer once it is only the root of another user namespace.
        joined.sort_by_key(|(kind, _)| *kind == Namespace::User);
    }
    // Within the joined user namespace others' are out of reach, and its own pid namespaces within.
    steps.enter.ahead.sort_by_key(|(kind, _)| match kind {
        Namespace::User => 1,
        Namespace::Pid => 2,
        _ => 0,
    });
    steps.enter.stand_in = user_ahead || cannot_return(request, steps);
    for (kind, slot) in joined {
        steps.birth(Action::Join { kind, slot });
    }

    // The cgroup namespace is rooted at the group in which it is made, so init makes it in its own.
    let by_init =
        if joined_user && !user_ahead { made } else { made & libc::CLONE_NEWCGROUP } & !libc::CLONE_NEWTIME;
    steps.enter.clone = (made & !by_init & !libc::CLONE_NEWTIME) as u64;
    if by_init != 0 {
        steps.birth(Action::Unshare { flags: by_init });
    }
    if request.place(Namespace::Time) == Place::New {
        // While /proc/self still belongs to us, which it will not after TakeRoot.
        steps.birth(Action::TimeOffsets { text: time_offsets(request)? });
    }
    // The limits are in force then, too: without a share of real time no real-time scheduler can be set.
    let scheduled = request.spec.process().as_ref().is_some_and(|process| process.scheduler().is_some());
    if user == Place::New || scheduled || !steps.outside.net_devices.is_empty() {
        steps.birth(Action::Report(Moment::Entered));
    }
    if user != Place::Inherited {
        steps.birth(Action::TakeRoot);
    }
    Ok(())
}

/// A guest joins all namespaces of a running container at once; its pid namespace takes a clone.
pub fn plan_guest(request: &Request, init_pid: i32, steps: &mut Steps) {
    let own = |kind: Namespace| request.place(kind) != Place::Inherited;
    let slot = steps.open(Open::Pidfd { pid: init_pid });
    let owned = KINDS.iter().map(|kind| kind.namespace).filter(|kind| own(*kind));
    let mut flags: i32 = owned.map(Namespace::flag).sum();
    if own(Namespace::Pid) {
        let user_ahead = request.facts.authority == Authority::User && own(Namespace::User);
        if user_ahead {
            steps.enter.ahead.push((Namespace::User, slot));
            flags &= !libc::CLONE_NEWUSER;
        }
        steps.enter.ahead.push((Namespace::Pid, slot));
        flags &= !libc::CLONE_NEWPID;
        steps.enter.stand_in = user_ahead || cannot_return(request, steps);
    }
    if flags != 0 {
        steps.every(Action::JoinProcess { slot, flags });
    }
    if own(Namespace::User) {
        steps.every(Action::TakeRoot);
    }
}

/// Root of another user namespace than the first may live in namespaces that the first owns, as Podman's does.
/// setns(2) takes it out of them and not back.
fn cannot_return(request: &Request, steps: &Steps) -> bool {
    request.facts.authority == Authority::NamespacedRoot && !steps.enter.ahead.is_empty()
}

fn check(request: &Request) -> Result<()> {
    let listed = request.linux().and_then(|linux| linux.namespaces().as_deref()).unwrap_or_default();
    for (index, namespace) in listed.iter().enumerate() {
        let kind = Namespace::from(namespace.typ());
        let earlier = listed[..index].iter().position(|earlier| earlier.typ() == namespace.typ());
        if let Some(earlier) = earlier {
            bail!(
                "linux.namespaces[{index}]: {} is already given by linux.namespaces[{earlier}]",
                kind.name()
            );
        }
        if let Some(path) = namespace.path() {
            let absolute = path.is_absolute() || path.as_os_str().is_empty();
            ensure!(absolute, "linux.namespaces[{index}].path: {} is not absolute", path.display());
        }
    }
    let user = request.place(Namespace::User);
    if user == Place::New {
        let joined_mounts = matches!(request.place(Namespace::Mount), Place::Joined(_));
        ensure!(
            !joined_mounts,
            "linux.namespaces: a new user namespace has no rights in a joined mount namespace"
        );
    }
    if user != Place::Inherited {
        let mount = request.place(Namespace::Mount);
        ensure!(
            mount != Place::Inherited,
            "linux.namespaces: a user namespace needs a mount namespace with it"
        );
    }
    let offsets = request.linux().and_then(|linux| linux.time_offsets().as_ref());
    if offsets.is_some_and(|offsets| !offsets.is_empty()) {
        match request.place(Namespace::Time) {
            Place::New => {}
            Place::Inherited => bail!("linux.timeOffsets: need a namespace of type time"),
            Place::Joined(_) => bail!("linux.timeOffsets: a joined time namespace has offsets already"),
        }
    }
    Ok(())
}

/// The maps of a new user namespace, and who can write them.
#[derive(Debug)]
pub struct Maps {
    pub uids: Vec<IdMapping>,
    pub gids: Vec<IdMapping>,
    /// An unprivileged user may map nobody but itself, unless newuidmap(1) and newgidmap(1) do it.
    helpers: bool,
    /// Who maps its own group alone must give up setgroups(2) for it (user_namespaces(7)).
    pub deny_setgroups: bool,
}

/// The maps, if the container has a user namespace of its own.
pub fn maps(request: &Request) -> Result<Option<Maps>> {
    fn listed(mappings: Option<&Option<Vec<LinuxIdMapping>>>) -> &[LinuxIdMapping] {
        mappings.and_then(|mappings| mappings.as_deref()).unwrap_or_default()
    }
    let mut uids =
        idmap::parse(listed(request.linux().map(|linux| linux.uid_mappings())), "linux.uidMappings")?;
    let mut gids =
        idmap::parse(listed(request.linux().map(|linux| linux.gid_mappings())), "linux.gidMappings")?;
    let facts = request.facts;
    let unprivileged = facts.authority == Authority::User;
    if unprivileged && request.place(Namespace::User) == Place::New && uids.is_empty() && gids.is_empty() {
        uids = idmap::own_and_subordinate(facts.euid, &facts.subids.uids);
        gids = idmap::own_and_subordinate(facts.egid, &facts.subids.gids);
    }
    for (mappings, path) in [(&uids, "linux.uidMappings"), (&gids, "linux.gidMappings")] {
        match request.place(Namespace::User) {
            Place::New => {
                ensure!(!mappings.is_empty(), "{path}: a new user namespace needs one");
                let root = idmap::outside(mappings, 0).is_some();
                ensure!(root, "{path}: id 0 is not mapped, and root of the container is who sets it up");
            }
            Place::Inherited => ensure!(mappings.is_empty(), "{path}: needs a namespace of type user"),
            // Engines repeat the maps that the joined namespace has.
            Place::Joined(_) => {}
        }
    }
    if request.place(Namespace::User) != Place::New {
        return Ok(None);
    }
    let only =
        |mappings: &[IdMapping], own| matches!(mappings, [one] if one.outside == own && one.count == 1);
    let alone = only(&uids, facts.euid) && only(&gids, facts.egid);
    Ok(Some(Maps { uids, gids, helpers: unprivileged && !alone, deny_setgroups: unprivileged && alone }))
}

/// What to write to `timens_offsets` (time_namespaces(7)).
fn time_offsets(request: &Request) -> Result<CString> {
    let offsets = request.linux().and_then(|linux| linux.time_offsets().as_ref());
    let mut offsets: Vec<(&String, &LinuxTimeOffset)> = offsets.into_iter().flatten().collect();
    offsets.sort_by_key(|(clock, _)| *clock);
    let mut text = String::new();
    for (clock, offset) in offsets {
        ensure!(
            ["monotonic", "boottime"].contains(&clock.as_str()),
            "linux.timeOffsets.{clock}: only monotonic and boottime have an offset"
        );
        let nanoseconds = offset.nanosecs().unwrap_or(0);
        ensure!(nanoseconds < 1_000_000_000, "linux.timeOffsets.{clock}.nanosecs: must be below 1000000000");
        text.push_str(&format!("{clock} {} {nanoseconds}\n", offset.secs().unwrap_or(0)));
    }
    c_string(text)
}

#[cfg(test)]
mod tests;
