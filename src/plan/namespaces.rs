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

/// A kind of namespace, and its name in a configuration.
#[derive(Debug)]
pub struct Kind {
    pub namespace: Namespace,
    pub name: &'static str,
}

/// In the order in which they are joined: the user namespace gives the right to the others, and the mount
/// namespace takes the host's paths away.
pub const KINDS: &[Kind] = &[
    Kind { namespace: Namespace::User, name: "user" },
    Kind { namespace: Namespace::Cgroup, name: "cgroup" },
    Kind { namespace: Namespace::Ipc, name: "ipc" },
    Kind { namespace: Namespace::Uts, name: "uts" },
    Kind { namespace: Namespace::Network, name: "network" },
    Kind { namespace: Namespace::Pid, name: "pid" },
    Kind { namespace: Namespace::Time, name: "time" },
    Kind { namespace: Namespace::Mount, name: "mount" },
];

/// Which namespace of a kind the container lives in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place<'a> {
    /// The runtime's own.
    Inherited,
    New,
    Joined(&'a Path),
}

impl Namespace {
    /// Its name in a configuration.
    pub fn name(self) -> &'static str {
        let found = KINDS.iter().find(|kind| kind.namespace == self);
        found.expect("the table holds every namespace").name
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
    let stand_in = joined_user
        && match request.place(Namespace::Pid) {
            Place::Inherited => false,
            Place::New => true,
            Place::Joined(_) => unprivileged,
        };
    let born_in_user_namespace = user == Place::New || stand_in;

    let mut made = 0;
    let mut joined = Vec::new();
    for kind in KINDS {
        match request.place(kind.namespace) {
            Place::Inherited => {}
            Place::New => made |= kind.namespace.flag(),
            Place::Joined(path) => {
                let path = c_string(path.as_os_str().as_encoded_bytes())?;
                let slot = steps.open(Open::Namespace { kind: kind.namespace, path });
                match kind.namespace {
                    Namespace::User if stand_in => steps.enter.stand_in = Some(slot),
                    Namespace::Pid => steps.enter.pid = Some(slot),
                    Namespace::Mount => joined.push((kind.namespace, slot)),
                    other if born_in_user_namespace && !unprivileged => steps.enter.ahead.push((other, slot)),
                    other => joined.push((other, slot)),
                }
            }
        }
    }
    if !unprivileged {
        // Root may join anything, but no longer once it is only the root of another user namespace.
        joined.sort_by_key(|(kind, _)| *kind == Namespace::User);
    }
    for (kind, slot) in joined {
        steps.birth(Action::Join { kind, slot });
    }

    // The cgroup namespace is rooted at the group in which it is made, so init makes it in its own.
    let by_init =
        if joined_user && !stand_in { made } else { made & libc::CLONE_NEWCGROUP } & !libc::CLONE_NEWTIME;
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
    if user == Place::New || scheduled {
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
        steps.enter.pid = Some(slot);
        flags &= !libc::CLONE_NEWPID;
        if request.facts.authority == Authority::User && own(Namespace::User) {
            steps.enter.stand_in = Some(slot);
            flags &= !libc::CLONE_NEWUSER;
        }
    }
    if flags != 0 {
        steps.every(Action::JoinProcess { slot, flags });
    }
    if own(Namespace::User) {
        steps.every(Action::TakeRoot);
    }
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

impl Namespace {
    /// The `CLONE_NEW*` flag.
    pub fn flag(self) -> i32 {
        match self {
            Namespace::User => libc::CLONE_NEWUSER,
            Namespace::Cgroup => libc::CLONE_NEWCGROUP,
            Namespace::Ipc => libc::CLONE_NEWIPC,
            Namespace::Uts => libc::CLONE_NEWUTS,
            Namespace::Network => libc::CLONE_NEWNET,
            Namespace::Pid => libc::CLONE_NEWPID,
            Namespace::Mount => libc::CLONE_NEWNS,
            Namespace::Time => libc::CLONE_NEWTIME,
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::plan::Slot;
    use crate::plan::facts::SubordinateIds;
    use crate::plan::testing::Given;

    const MAP: &str = r#"[{"containerID": 0, "hostID": 1000, "size": 1}]"#;

    fn given(namespaces: Value) -> Given {
        let user = namespaces.as_array().unwrap().iter().any(|one| *one == json!({"type": "user"}));
        let map: Value = if user { serde_json::from_str(MAP).unwrap() } else { json!([]) };
        Given::new(json!({"linux": {"namespaces": namespaces, "uidMappings": map, "gidMappings": map}}))
    }

    fn planned(given: &Given) -> Steps {
        let mut steps = Steps::new(given.facts.authority);
        plan(&given.request(), &mut steps).unwrap();
        steps
    }

    fn intents(steps: &Steps) -> Vec<String> {
        steps.listed().iter().map(|step| step.action.intent()).collect()
    }

    fn flags(kinds: &[Namespace]) -> u64 {
        kinds.iter().map(|kind| kind.flag() as u64).sum()
    }

    #[test]
    fn new_namespaces_are_made_by_the_clone_but_for_cgroup_and_time() {
        let all =
            ["pid", "network", "ipc", "uts", "mount", "cgroup", "time"].map(|name| json!({"type": name}));
        let steps = planned(&given(json!(all)));
        use Namespace::{Ipc, Mount, Network, Pid, Uts};
        assert_eq!(steps.enter.clone, flags(&[Ipc, Mount, Network, Pid, Uts]));
        assert_eq!(intents(&steps), ["make a new cgroup namespace", "make a new time namespace"]);
    }

    #[test]
    fn a_new_user_namespace_is_reported_before_its_root_is_taken() {
        let steps = planned(&given(json!([{"type": "user"}, {"type": "mount"}])));
        assert_eq!(steps.enter.clone, flags(&[Namespace::User, Namespace::Mount]));
        assert_eq!(intents(&steps), ["report Entered", "become root of the user namespace"]);
    }

    #[test]
    fn what_others_own_is_entered_ahead_of_a_birth_in_a_new_user_namespace() {
        let steps = planned(&given(json!([
            {"type": "user"}, {"type": "mount"},
            {"type": "network", "path": "/run/netns/a"}, {"type": "pid", "path": "/proc/7/ns/pid"},
        ])));
        assert_eq!(steps.enter.ahead, [(Namespace::Network, Slot(0))]);
        assert_eq!(steps.enter.pid, Some(Slot(1)));
        assert_eq!(steps.enter.stand_in, None);
    }

    #[test]
    fn root_joins_a_user_namespace_after_the_others_and_then_makes_new_ones() {
        let steps = planned(&given(json!([
            {"type": "user", "path": "/proc/7/ns/user"}, {"type": "ipc", "path": "/proc/7/ns/ipc"},
            {"type": "mount"}, {"type": "uts"},
        ])));
        assert_eq!(steps.enter.clone, 0);
        assert_eq!(
            intents(&steps),
            [
                "join the ipc namespace",
                "join the user namespace",
                "make a new uts mount namespace",
                "become root of the user namespace"
            ]
        );
    }

    #[test]
    fn a_user_joins_a_user_namespace_first_since_nothing_else_gives_rights() {
        let namespaces = json!([
            {"type": "ipc", "path": "/proc/7/ns/ipc"}, {"type": "user", "path": "/proc/7/ns/user"},
            {"type": "mount"},
        ]);
        let steps = planned(&given(namespaces).run_by(Authority::User));
        assert_eq!(intents(&steps)[..2], ["join the user namespace", "join the ipc namespace"]);
    }

    #[test]
    fn a_pid_namespace_in_a_joined_user_namespace_takes_a_stand_in() {
        let steps = planned(&given(json!([
            {"type": "user", "path": "/proc/7/ns/user"}, {"type": "network", "path": "/proc/7/ns/net"},
            {"type": "pid"}, {"type": "mount"},
        ])));
        assert_eq!(steps.enter.stand_in, Some(Slot(0)));
        assert_eq!(steps.enter.ahead, [(Namespace::Network, Slot(1))]);
        assert_eq!(steps.enter.clone, flags(&[Namespace::Pid, Namespace::Mount]));
        assert_eq!(intents(&steps), ["become root of the user namespace"]);
    }

    #[test]
    fn an_empty_path_is_no_path() {
        let given = given(json!([{"type": "ipc", "path": ""}]));
        assert_eq!(given.request().place(Namespace::Ipc), Place::New);
    }

    #[test]
    fn a_user_maps_itself_alone_or_has_helpers_do_it() {
        let maps = |map: Value| {
            let namespaces = json!([{"type": "user"}, {"type": "mount"}]);
            let given = Given::new(json!({
                "linux": {"namespaces": namespaces, "uidMappings": map, "gidMappings": map},
            }))
            .run_by(Authority::User);
            let outside = planned(&given).outside;
            (outside.map_with_helpers, outside.deny_setgroups)
        };
        assert_eq!(maps(json!([{"containerID": 0, "hostID": 1000, "size": 1}])), (false, true));
        assert_eq!(maps(json!([{"containerID": 0, "hostID": 100000, "size": 65536}])), (true, false));
    }

    #[test]
    fn a_user_without_a_user_namespace_gets_one_of_itself_and_its_subordinate_ids() {
        let planned_for = |subids: SubordinateIds| {
            let mut given =
                Given::new(json!({"linux": {"namespaces": [{"type": "mount"}]}})).run_by(Authority::User);
            given.facts.subids = subids;
            planned(&given)
        };
        let map = |inside, outside, count| IdMapping { inside, outside, count };
        let steps = planned_for(SubordinateIds::default());
        assert_eq!(steps.enter.clone, flags(&[Namespace::User, Namespace::Mount]));
        assert_eq!(steps.outside.uid_map, [map(0, 1000, 1)]);
        assert!(steps.outside.deny_setgroups);
        let ranges = vec![(100_000, 65_536), (300_000, 10)];
        let steps = planned_for(SubordinateIds { uids: ranges.clone(), gids: ranges });
        assert_eq!(
            steps.outside.gid_map,
            [map(0, 1000, 1), map(1, 100_000, 65_536), map(65_537, 300_000, 10)]
        );
        assert!(steps.outside.map_with_helpers);
    }

    #[test]
    fn time_offsets_are_written_as_the_kernel_reads_them() {
        let given = Given::new(json!({"linux": {
            "namespaces": [{"type": "time"}],
            "timeOffsets": {"monotonic": {"secs": -5, "nanosecs": 7}, "boottime": {"secs": 86400}},
        }}));
        let steps = planned(&given);
        let Action::TimeOffsets { text } = &steps.listed()[0].action else { panic!("{steps:?}") };
        assert_eq!(text.as_c_str(), c"boottime 86400 0\nmonotonic -5 7\n");
    }

    #[test]
    fn a_guest_joins_everything_at_once_and_its_pid_namespace_by_birth() {
        let namespaces = json!([{"type": "pid"}, {"type": "ipc"}, {"type": "user"}, {"type": "mount"}]);
        let guest = |authority| {
            let given = given(namespaces.clone()).run_by(authority);
            let mut steps = Steps::of_a_guest(authority);
            plan_guest(&given.request(), 42, &mut steps);
            let Action::JoinProcess { flags, .. } = steps.listed()[0].action else { panic!("{steps:?}") };
            (steps.enter.pid, steps.enter.stand_in, flags as u64)
        };
        use Namespace::{Ipc, Mount, User};
        assert_eq!(guest(Authority::Root), (Some(Slot(0)), None, flags(&[Ipc, Mount, User])));
        assert_eq!(guest(Authority::User), (Some(Slot(0)), Some(Slot(0)), flags(&[Ipc, Mount])));
    }

    #[test]
    fn impossible_combinations_are_refused() {
        let refusal = |config: Value, authority| {
            let given = Given::new(config).run_by(authority);
            plan(&given.request(), &mut Steps::new(authority)).unwrap_err().to_string()
        };
        let map = json!([{"containerID": 0, "hostID": 1000, "size": 1}]);
        let shifted = json!([{"containerID": 1, "hostID": 1000, "size": 1}]);
        let user = json!([{"type": "user"}]);
        for (linux, authority, part) in [
            (json!({"namespaces": [{"type": "pid"}]}), Authority::User, "needs a mount namespace with it"),
            (
                json!({"namespaces": user, "uidMappings": map, "gidMappings": map}),
                Authority::Root,
                "needs a mount namespace with it",
            ),
            (
                json!({"namespaces": [{"type": "user"}, {"type": "mount", "path": "/proc/7/ns/mnt"}],
                    "uidMappings": map, "gidMappings": map}),
                Authority::Root,
                "no rights in a joined mount namespace",
            ),
            (
                json!({"namespaces": [{"type": "user"}, {"type": "mount"}],
                    "uidMappings": shifted, "gidMappings": shifted}),
                Authority::Root,
                "id 0 is not mapped",
            ),
            (
                json!({"namespaces": [{"type": "time", "path": "/proc/7/ns/time"}],
                    "timeOffsets": {"monotonic": {"secs": 1}}}),
                Authority::Root,
                "has offsets already",
            ),
            (
                json!({"namespaces": [{"type": "time"}], "timeOffsets": {"realtime": {"secs": 1}}}),
                Authority::Root,
                "only monotonic and boottime",
            ),
        ] {
            let refused = refusal(json!({"linux": linux}), authority);
            assert!(refused.contains(part), "{refused}");
        }
    }
}
