//! Whole plans: of configurations as engines write them, compared as text, and laws that hold for all of them.
//!
//! `UPDATE_GOLDENS=1 cargo test` writes the texts anew; what changed is for a reviewer to read.

pub mod absence;
mod specification;

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::cgroup::{CgroupLayout, Hierarchy};
use super::facts::{Authority, Facts};
use super::request::{Console, Options, Request};
use super::testing::host;
use super::{Action, Moment, MountWhat, Open, Plan, Slot, When, bundle, print, steps};

/// A configuration in `goldens/`, and who gives it to the runtime.
struct Case {
    name: &'static str,
    authorities: &'static [Authority],
}

const EVERYBODY: &[Authority] = &[Authority::Root, Authority::NamespacedRoot, Authority::User];
const ROOT: &[Authority] = &[Authority::Root];

const CASES: &[Case] = &[
    Case { name: "containerd-ctr", authorities: ROOT },
    Case { name: "containerd-pod", authorities: ROOT },
    Case { name: "containerd-pod-user", authorities: ROOT },
    Case { name: "docker", authorities: &[Authority::Root, Authority::NamespacedRoot] },
    Case { name: "podman", authorities: ROOT },
    Case { name: "podman-rootless", authorities: &[Authority::NamespacedRoot] },
    Case { name: "rarities", authorities: ROOT },
    Case { name: "spec", authorities: ROOT },
    Case { name: "spec-rootless", authorities: EVERYBODY },
];

fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src/plan/goldens")
}

fn unified_host(authority: Authority) -> Facts {
    let controllers = ["cpuset", "cpu", "io", "memory", "hugetlb", "pids", "rdma"].map(String::from);
    let v2 = Hierarchy { controllers: controllers.into(), directory: PathBuf::new() };
    let cgroup = CgroupLayout { root: "/sys/fs/cgroup".into(), v1: Vec::new(), v2: Some(v2) };
    Facts { cgroup, ..host(authority) }
}

/// The plan of a birth and of a guest, from a configuration as text.
fn plans(text: &[u8], authority: Authority) -> (Plan, Plan) {
    let (spec, warnings) = bundle::parse(text).unwrap();
    let facts = unified_host(authority);
    let process = spec.process().as_ref().unwrap();
    let console = match process.terminal() {
        Some(true) => Console::Socket("/run/console.sock".into()),
        _ => Console::None,
    };
    let options = Options { console, room: "/run/corten/web".into(), ..Options::default() };
    let request = Request {
        id: "web",
        bundle: Path::new("/run/bundles/web"),
        spec: &spec,
        warnings: &warnings,
        facts: &facts,
        options: &options,
    };
    let birth = steps::birth(&request).unwrap();
    let guest = steps::guest(&request, process, 4711).unwrap();
    (birth, guest)
}

fn every_plan() -> impl Iterator<Item = (String, Plan, Plan)> {
    CASES.iter().flat_map(|case| {
        let text = fs::read(directory().join(case.name).with_extension("json")).unwrap();
        case.authorities.iter().map(move |authority| {
            let (birth, guest) = plans(&text, *authority);
            (format!("{}.{}", case.name, spell(*authority)), birth, guest)
        })
    })
}

fn spell(authority: Authority) -> &'static str {
    match authority {
        Authority::Root => "root",
        Authority::NamespacedRoot => "namespaced-root",
        Authority::User => "user",
    }
}

#[test]
fn plans_of_engines_configurations_are_as_written_down() {
    let update = option_env!("UPDATE_GOLDENS").is_some();
    let mut differing = Vec::new();
    for (name, birth, guest) in every_plan() {
        let printed = format!("{}\nguest\n{}", print::text(&birth), print::text(&guest));
        let path = directory().join(format!("{name}.txt"));
        if update {
            fs::write(&path, printed).unwrap();
        } else if fs::read_to_string(&path).unwrap_or_default() != printed {
            differing.push(name);
        }
    }
    assert!(differing.is_empty(), "not as written down: {differing:?} (UPDATE_GOLDENS=1 writes them anew)");
}

#[test]
fn every_configuration_and_text_belongs_to_a_case() {
    let mut expected: Vec<String> = every_plan().map(|(name, ..)| format!("{name}.txt")).collect();
    expected.extend(CASES.iter().map(|case| format!("{}.json", case.name)));
    expected.sort();
    let mut found: Vec<String> = fs::read_dir(directory())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    found.sort();
    assert_eq!(found, expected);
}

/// The kind of an action, without its particulars.
fn kind(action: &Action) -> String {
    let text = format!("{action:?}");
    let kind = text.split([' ', '(']).next().unwrap().to_string();
    match action {
        Action::Report(moment) => format!("{kind} {moment:?}"),
        Action::ParentDeath { signal } => format!("{kind} {signal}"),
        Action::Label { file, .. } => format!("{kind} {file:?}"),
        // A guest enters by another door.
        Action::Join { .. } | Action::JoinProcess { .. } | Action::Unshare { .. } => {
            "into namespaces".to_string()
        }
        _ => kind,
    }
}

fn positions(plan: &Plan, wanted: impl Fn(&Action) -> bool) -> Vec<usize> {
    plan.steps.iter().enumerate().filter(|(_, step)| wanted(&step.action)).map(|(number, _)| number).collect()
}

fn only(plan: &Plan, wanted: impl Fn(&Action) -> bool) -> usize {
    let found = positions(plan, wanted);
    assert_eq!(found.len(), 1, "{found:?}");
    found[0]
}

fn is_pivot(action: &Action) -> bool {
    matches!(action, Action::Pivot | Action::MoveRoot | Action::Chroot)
}

#[test]
fn after_it_is_in_place_a_guest_takes_the_steps_that_every_first_process_takes() {
    for (name, birth, guest) in every_plan() {
        let after_session = |plan: &Plan| {
            let session = only(plan, |action| matches!(action, Action::Session));
            let every = plan.steps[session..].iter().filter(|step| step.when == When::Every);
            every.map(|step| kind(&step.action)).collect::<Vec<_>>()
        };
        assert_eq!(after_session(&guest), after_session(&birth), "{name}");
        assert!(guest.steps.iter().all(|step| step.when == When::Every), "{name}");
    }
}

#[test]
fn the_cgroup_is_entered_before_anything_else_happens() {
    for (name, birth, guest) in every_plan() {
        for plan in [birth, guest] {
            assert_eq!(only(&plan, |action| matches!(action, Action::EnterCgroups)), 0, "{name}");
        }
    }
}

#[test]
fn who_is_to_be_placed_by_systemd_waits_for_it_before_anything_else() {
    let given = super::testing::Given::new(json!({
        "process": {"cwd": "/", "args": ["a"]},
        "linux": {"cgroupsPath": "a-b.slice:p:n", "namespaces": [{"type": "mount"}, {"type": "cgroup"}],
                  "resources": {"memory": {"limit": 4096}}},
        "annotations": {"org.systemd.property.KillSignal": "9"},
    }));
    let options = Options { cgroups: super::request::Cgroups::Systemd, ..Options::default() };
    let facts = unified_host(Authority::Root);
    let request = Request { facts: &facts, options: &options, ..given.request() };
    let birth = steps::birth(&request).unwrap();
    let guest = steps::guest(&request, given.spec.process().as_ref().unwrap(), 4711).unwrap();
    for plan in [&birth, &guest] {
        assert_eq!(only(plan, |action| matches!(action, Action::EnterCgroups)), 0);
        assert_eq!(only(plan, |action| matches!(action, Action::Report(Moment::Placed))), 2);
        assert!(matches!(plan.steps[1].action, Action::ParentDeath { signal: libc::SIGKILL }));
    }
    let printed = print::text(&birth);
    for line in [
        "cgroup  a.slice/a-b.slice/p-n.scope\n",
        "        unit   p-n.scope in a-b.slice, by the system's systemd\n",
        "        tell   MemoryMax=uint64 4096\n",
        "        tell   KillSignal=9\n",
        "        limit  memory.max 4096\n",
    ] {
        assert!(printed.contains(line), "no {line:?} in:\n{printed}");
    }
    assert_eq!(print::json(&birth)["cgroup"]["unit"]["name"], "p-n.scope");
    assert!(guest.cgroup.is_none());
}

#[test]
fn nothing_but_the_start_follows_a_late_filter() {
    for (name, birth, _) in every_plan() {
        let filters = positions(&birth, |action| matches!(action, Action::Seccomp { early: false, .. }));
        let Some(filter) = filters.first() else { continue };
        for step in &birth.steps[filter + 1..] {
            let allowed = matches!(
                step.action,
                Action::Report(Moment::Ready)
                    | Action::WaitStart
                    | Action::Hooks { .. }
                    | Action::Exec { .. }
            );
            assert!(allowed, "{name}: {:?}", step.action);
        }
    }
}

#[test]
fn an_early_filter_comes_while_there_are_privileges_and_only_then() {
    for (name, birth, guest) in every_plan() {
        for plan in [birth, guest] {
            let no_new_privileges = positions(&plan, |action| matches!(action, Action::NoNewPrivileges));
            let user = only(&plan, |action| matches!(action, Action::SetUser { .. }));
            let place = positions(&plan, |action| matches!(action, Action::WorkingDirectory { .. }))[0];
            for filter in positions(&plan, |action| matches!(action, Action::Seccomp { .. })) {
                assert_eq!(filter < user, no_new_privileges.is_empty(), "{name}");
                assert!(place < filter, "{name}");
            }
        }
    }
}

#[test]
fn covers_come_after_everything_that_is_made_inside_and_before_the_pivot() {
    for (name, birth, _) in every_plan() {
        let pivot = only(&birth, is_pivot);
        let covers = positions(&birth, |action| {
            matches!(action, Action::Mask { .. } | Action::ReadOnlyPath { .. } | Action::ReadOnlyRoot)
        });
        let makers = positions(&birth, |action| {
            matches!(
                action,
                Action::Mount(_)
                    | Action::Device { .. }
                    | Action::Symlink { .. }
                    | Action::MakeDirectory { .. }
                    | Action::Terminal { .. }
                    | Action::ReopenNull
                    | Action::ReadOnlyMount { .. }
            )
        });
        assert!(covers.iter().all(|cover| makers.iter().all(|maker| maker < cover)), "{name}");
        assert!(covers.iter().all(|cover| *cover < pivot), "{name}");
    }
}

#[test]
fn after_the_pivot_nothing_is_resolved_in_the_root_by_path_but_the_programs_own() {
    for (name, birth, _) in every_plan() {
        let pivot = only(&birth, is_pivot);
        for step in &birth.steps[pivot + 1..] {
            let resolves = matches!(
                step.action,
                Action::Mount(_)
                    | Action::OpenTree { .. }
                    | Action::Device { .. }
                    | Action::Symlink { .. }
                    | Action::Mask { .. }
                    | Action::ReadOnlyPath { .. }
                    | Action::MakeDirectory { .. }
                    | Action::Sysctl { .. }
            );
            assert!(!resolves, "{name}: {:?}", step.action);
        }
    }
}

#[test]
fn the_process_gives_up_its_rights_in_an_order_that_it_survives() {
    for (name, birth, guest) in every_plan() {
        for plan in [birth, guest] {
            let at = |kind_of: &str| positions(&plan, |action| kind(action) == kind_of);
            let user = at("SetUser")[0];
            let sets = at("Capabilities")[0];
            assert!(at("Rlimit").iter().all(|limit| *limit < user), "{name}");
            assert!(user < sets, "{name}");
            assert!(sets < at("WorkingDirectory")[1], "{name}");
            assert!(at("WorkingDirectory")[1] < at("FindExecutable")[0], "{name}");
            assert_eq!(at("Exec"), [plan.steps.len() - 1], "{name}");
        }
    }
}

#[test]
fn every_slot_is_filled_once_and_before_it_is_used() {
    for (name, birth, guest) in every_plan() {
        for plan in [birth, guest] {
            let mut filled: Vec<Slot> = plan.open.iter().map(|(slot, _)| *slot).collect();
            let entered = plan.enter.ahead.iter().map(|(_, slot)| *slot);
            for slot in entered {
                assert!(filled.contains(&slot), "{name}: {slot:?}");
            }
            for step in &plan.steps {
                let (used, fills) = match &step.action {
                    Action::OpenTree { slot, .. } => (None, Some(*slot)),
                    Action::Mount(mount) => match mount.what {
                        MountWhat::Tree { slot }
                        | MountWhat::Device { slot, .. }
                        | MountWhat::FilesystemOrTree { slot, .. } => (Some(slot), mount.keep),
                        _ => (None, mount.keep),
                    },
                    Action::MountRoot { slot, .. }
                    | Action::Join { slot, .. }
                    | Action::JoinProcess { slot, .. }
                    | Action::ReadOnlyMount { slot } => (Some(*slot), None),
                    _ => (None, None),
                };
                assert!(used.is_none_or(|slot| filled.contains(&slot)), "{name}: {:?}", step.action);
                assert!(fills.is_none_or(|slot| !filled.contains(&slot)), "{name}: {:?}", step.action);
                filled.extend(fills);
            }
            assert_eq!(filled.len(), plan.slots, "{name}");
        }
    }
}

#[test]
fn an_unprivileged_runtime_opens_nothing_of_the_hosts_before_it_has_a_namespace() {
    for (name, birth, _) in every_plan().filter(|(name, ..)| name.ends_with(".user")) {
        let trees = birth.open.iter().filter(|(_, open)| matches!(open, Open::Tree { .. }));
        assert_eq!(trees.count(), 0, "{name}");
        let root = only(&birth, |action| matches!(action, Action::MountRoot { .. }));
        for tree in positions(&birth, |action| matches!(action, Action::OpenTree { .. })) {
            assert!(tree < root, "{name}");
        }
    }
}

fn refusal(change: impl FnOnce(&mut Value)) -> String {
    let mut config = json!({
        "ociVersion": "1.2.0",
        "root": {"path": "rootfs"},
        "process": {"cwd": "/", "args": ["true"], "user": {"uid": 0, "gid": 0}},
        "linux": {"namespaces": [{"type": "mount"}, {"type": "uts"}, {"type": "ipc"}]},
    });
    change(&mut config);
    let facts = unified_host(Authority::Root);
    let (spec, warnings) = match bundle::parse(config.to_string().as_bytes()) {
        Ok(parsed) => parsed,
        Err(error) => return format!("{error:#}"),
    };
    let request = Request {
        id: "web",
        bundle: Path::new("/bundle"),
        spec: &spec,
        warnings: &warnings,
        facts: &facts,
        options: &Options::default(),
    };
    let error = steps::birth(&request).map(|plan| print::text(&plan)).unwrap_err();
    format!("{error:#}").trim_start_matches("config.json: ").to_string()
}

/// What is put where, and the sentence that it earns.
#[test]
fn what_cannot_be_planned_is_refused_by_its_json_path() {
    let cases: &[(&str, Value, &str)] = &[
        ("/process", json!(null), "process: missing"),
        ("/process/args", json!([]), "process.args: must have at least one entry"),
        ("/process/args", json!([""]), "process.args[0]: exec: \"\": executable file not found in $PATH"),
        ("/process/cwd", json!("srv"), "process.cwd: \"srv\" is not absolute"),
        (
            "/process/cwd",
            json!(format!("/{}", "a".repeat(65536))),
            "process.cwd: is longer than a path may be",
        ),
        ("/process/env", json!(["A=1", "B"]), "process.env[1]: \"B\" has no \"=\""),
        ("/process/env", json!(["=1"]), "process.env[0]: \"=1\" has no name"),
        (
            "/process/terminal",
            json!(true),
            "process.terminal: nobody takes the terminal (see --console-socket)",
        ),
        ("/process/user/umask", json!(512), "process.user.umask: 512 is more than 511 (0777)"),
        ("/process/user/uid", json!(u32::MAX), "process.user.uid: 4294967295 is not an id"),
        (
            "/linux/devices",
            json!([{"path": "/dev/x", "type": "c", "major": 1, "minor": 3, "uid": u32::MAX}]),
            "linux.devices[0].uid: 4294967295 is no id",
        ),
        (
            "/annotations",
            json!({"run.oci.keep_original_groups": "perhaps"}),
            "annotations.run.oci.keep_original_groups: \"perhaps\" is neither true nor false",
        ),
        (
            "/process/user/additionalGids",
            json!([1, u32::MAX]),
            "process.user.additionalGids[1]: 4294967295 is not an id",
        ),
        (
            "/process/rlimits",
            json!([{"type": "RLIMIT_CPU", "soft": 2, "hard": 1}]),
            "process.rlimits[0].soft: 2 is above the hard limit 1",
        ),
        (
            "/process/rlimits",
            json!([{"type": "RLIMIT_CPU", "soft": 1, "hard": 1}, {"type": "RLIMIT_CPU", "soft": 1, "hard": 1}]),
            "process.rlimits[1]: RLIMIT_CPU is already given by process.rlimits[0]",
        ),
        (
            "/process/selinuxLabel",
            json!("a:b"),
            "process.selinuxLabel: \"a:b\" is asked for, but SELinux is not enabled here",
        ),
        (
            "/process/ioPriority",
            json!({"class": "IOPRIO_CLASS_BE", "priority": 8}),
            "process.ioPriority.priority: 8 is not within 0 and 7",
        ),
        (
            "/process/scheduler",
            json!({"policy": "SCHED_FIFO", "nice": 1}),
            "process.scheduler.nice: means nothing to SCHED_FIFO",
        ),
        (
            "/process/scheduler",
            json!({"policy": "SCHED_OTHER", "nice": 20}),
            "process.scheduler.nice: 20 is not within -20 and 19",
        ),
        (
            "/process/scheduler",
            json!({"policy": "SCHED_OTHER", "priority": 1}),
            "process.scheduler.priority: means nothing to SCHED_OTHER",
        ),
        (
            "/process/scheduler",
            json!({"policy": "SCHED_RR", "period": 1}),
            "process.scheduler.period: means nothing to SCHED_RR",
        ),
        ("/root/path", json!(""), "root.path: missing"),
        ("/root", json!(null), "root: missing"),
        ("/hostname", json!("h".repeat(65)), "hostname: is longer than 64 bytes"),
        ("/annotations", json!({"": "x"}), "annotations: a name is empty"),
        ("/hooks", json!({"poststop": [{"path": "x"}]}), "hooks.poststop[0].path: \"x\" is not absolute"),
        (
            "/linux/namespaces",
            json!([{"type": "ipc"}, {"type": "pid"}, {"type": "ipc"}]),
            "linux.namespaces[2]: ipc is already given by linux.namespaces[0]",
        ),
        (
            "/linux/namespaces",
            json!([{"type": "ipc", "path": "proc/1/ns/ipc"}]),
            "linux.namespaces[0].path: proc/1/ns/ipc is not absolute",
        ),
        (
            "/linux/namespaces",
            json!([{"type": "user"}, {"type": "mount"}]),
            "linux.uidMappings: a new user namespace needs one",
        ),
        (
            "/linux/uidMappings",
            json!([{"containerID": 0, "hostID": 1000, "size": 1}]),
            "linux.uidMappings: needs a namespace of type user",
        ),
        (
            "/linux/timeOffsets",
            json!({"monotonic": {"secs": 1}}),
            "linux.timeOffsets: need a namespace of type time",
        ),
        (
            "/linux/sysctl",
            json!({"net.core.x": "1"}),
            "linux.sysctl: net.core.x needs a namespace of type network",
        ),
        (
            "/linux/sysctl",
            json!({"vm.swappiness": "1"}),
            "linux.sysctl: vm.swappiness is not in a separate kernel namespace, it would change the host",
        ),
        (
            "/linux/sysctl",
            json!({"kernel.hostname": "x"}),
            "linux.sysctl: kernel.hostname is set by the member \"hostname\"",
        ),
        (
            "/linux/sysctl",
            json!({"net/../kernel/x": "1"}),
            "linux.sysctl: \"net/../kernel/x\" is not the name of a kernel parameter",
        ),
        (
            "/linux/personality",
            json!({"domain": "LINUX", "flags": ["x"]}),
            "linux.personality.flags: none are defined",
        ),
        (
            "/linux/memoryPolicy",
            json!({"mode": "MPOL_BIND"}),
            "linux.memoryPolicy.nodes: MPOL_BIND needs some",
        ),
        (
            "/linux/memoryPolicy",
            json!({"mode": "MPOL_LOCAL", "nodes": "0"}),
            "linux.memoryPolicy.nodes: MPOL_LOCAL takes none",
        ),
        (
            "/linux/memoryPolicy",
            json!({"mode": "MPOL_BIND", "nodes": "3-1"}),
            "linux.memoryPolicy.nodes: \"3-1\" ends before it begins",
        ),
        ("/linux/netDevices", json!({"eth0": {}}), "linux.netDevices: need a namespace of type network"),
        (
            "/linux/intelRdt",
            json!({"closID": "a/b"}),
            "linux.intelRdt.closID: \"a/b\" is not the name of a directory",
        ),
        ("/linux/rootfsPropagation", json!("ro"), "linux.rootfsPropagation: \"ro\" is not a propagation"),
    ];
    for (pointer, value, sentence) in cases {
        let (parent, name) = pointer.rsplit_once('/').unwrap();
        let refused = refusal(|config| config.pointer_mut(parent).unwrap()[name] = value.clone());
        assert_eq!(refused, *sentence, "{pointer}");
    }
}
