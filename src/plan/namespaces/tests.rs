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
    let all = ["pid", "network", "ipc", "uts", "mount", "cgroup", "time"].map(|name| json!({"type": name}));
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
    assert_eq!(steps.enter.ahead, [(Namespace::Network, Slot(0)), (Namespace::Pid, Slot(1))]);
    assert!(!steps.enter.stand_in);
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
    assert!(steps.enter.stand_in);
    assert_eq!(steps.enter.ahead, [(Namespace::Network, Slot(1)), (Namespace::User, Slot(0))]);
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
    assert_eq!(steps.outside.gid_map, [map(0, 1000, 1), map(1, 100_000, 65_536), map(65_537, 300_000, 10)]);
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
        (steps.enter.ahead, steps.enter.stand_in, flags as u64)
    };
    use Namespace::{Ipc, Mount, Pid, User};
    let (user, pid) = ((User, Slot(0)), (Pid, Slot(0)));
    assert_eq!(guest(Authority::Root), (vec![pid], false, flags(&[Ipc, Mount, User])));
    assert_eq!(guest(Authority::NamespacedRoot), (vec![pid], true, flags(&[Ipc, Mount, User])));
    assert_eq!(guest(Authority::User), (vec![user, pid], true, flags(&[Ipc, Mount])));
}

#[test]
fn root_of_a_user_namespace_needs_a_stand_in_for_what_it_cannot_come_back_from() {
    let stand_in = |namespaces| planned(&given(namespaces).run_by(Authority::NamespacedRoot)).enter.stand_in;
    assert!(stand_in(json!([{"type": "pid", "path": "/proc/7/ns/pid"}])));
    assert!(stand_in(json!([
        {"type": "user"}, {"type": "mount"}, {"type": "network", "path": "/run/netns/a"},
    ])));
    assert!(!stand_in(json!([{"type": "pid"}, {"type": "network", "path": "/run/netns/a"}])));
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
