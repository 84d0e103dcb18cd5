//! Without root: the other chapters once more as an ordinary user, and what only such a user meets.
//!
//! The user is one of the tests' own: passwd and the files of subordinate ids lie over the host's in a mount namespace,
//! so that no user has to be made and none is disturbed.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, PoisonError};
use std::thread;

use nix::mount::MsFlags;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::bundle::{Bundle, bundle, install, payloads, runtime, skip};
use crate::faults::under_strace;
use crate::mounts::{Mounted, has, mount_at};
use crate::traces::{delegated, hierarchies};

const UID: u32 = 4242;
const SUBORDINATE: u32 = 200_000;

/// What an ordinary user cannot do, for the tests themselves or by the kernel's rules, and the tests that need it:
/// whole chapters, or names. Everything else must hold for a user too.
const FOR_ROOT: &[(&str, &[&str])] = &[
    (
        "a control group of its own",
        &[
            "cgroups::",
            "events::",
            "pause::",
            "update::",
            "cli::odd_shapes_of_options_are_understood",
            "cli::ps_shows_the_processes_of_the_container_and_no_others",
            "exec::exec_does_not_go_into_a_group_that_is_not_below",
            "exec::exec_follows_an_init_that_has_moved_down_and_is_not_in_the_way_of_what_it_does_next",
            "exec::exec_goes_into_a_group_below_that_of_the_container",
            "exec::exec_leaves_the_group_of_the_container_on_the_named_hierarchy_alone",
            "exec::exec_says_what_a_cpuset_lacks",
            "exec::the_cpus_on_which_an_exec_begins_need_not_be_the_containers",
            "lifecycle::kill_with_all_signals_every_process_of_the_container",
            "lifecycle::kill_with_sigkill_reaches_the_children_of_an_init_that_is_gone",
            "hosts::",
            "limits::",
            "resctrl::events_tell_of_the_group",
            "shell::an_interactive_shell_has_job_control",
            "supervision::a_dead_process_that_keeps_a_container_is_told_from_one_that_lives",
            "supervision::a_create_that_cannot_clean_up_leaves_what_delete_by_force_takes",
            "supervision::a_process_that_has_ended_its_first_thread_is_alive_and_can_be_killed",
            "supervision::a_process_that_cannot_die_is_named_before_the_patience_of_an_engine_ends",
            "supervision::exec_in_a_paused_container_waits_for_it_to_go_on_if_asked",
            "system::",
            "systemd::without_a_bus_create_says_so_and_leaves_nothing",
        ],
    ),
    ("devices of its own", &["devices::", "odd_rootfs::whatever_", "process::the_io_priority_is_set"]),
    (
        "mounts of the host",
        &[
            "mount_options::",
            "mounts::bind_takes_one_mount_and_rbind_the_tree",
            "security::cve_2019_5736_a_read_only_mount_of_the_hosts_is_no_seal",
            "mounts::ridmap_maps_the_whole_tree_and_idmap_its_top",
            "propagation::",
            "state::start_works_from_another_mount_namespace",
        ],
    ),
    (
        "files of other users",
        &[
            "annotations::an_option_can_hold_the_mappings_of_its_mount",
            "annotations::groups_of_the_caller_are_kept_when_asked",
            "annotations::mappings_with_an_at_sign_are_moved_as_the_container_is",
            "checkpoint::",
            "checkpoint_options::",
            "migration::",
            "cli::a_plan_as_json_is_json",
            "cli::plan_",
            "exec::exec_joins_a_container_with_a_user_namespace",
            "mounts::an_idmapped_bind_shows_files_under_other_owners",
            "mounts::every_default_file_system_works_in_a_user_namespace",
            "mounts::idmap_uses_the_containers_own_mapping_where_the_mount_has_none",
            "mounts::sysfs_of_an_inherited_network_namespace_is_bound_in_a_user_namespace",
            "namespaces::a_new_user_namespace_",
            "namespaces::a_process_in_a_user_namespace_runs_as_the_mapped_user_on_the_host",
            "namespaces::a_user_namespace_is_joined_together_with_those_it_owns",
            "namespaces::every_kind_of_namespace_can_be_new",
            "namespaces::ids_are_mapped_in_a_new_user_namespace",
            "namespaces::several_mappings_are_written_in_their_order",
            "notify::a_container_with_a_user_namespace_reaches_the_manager",
            "process::a_cwd_that_only_the_user_may_enter_is_entered_as_the_user",
            "security::cve_2016_9962_",
            "state::root_of_a_users_namespace_has_a_root_directory_in_xdg_runtime_dir",
            "state::who_is_not_root_has_a_root_directory_in_xdg_runtime_dir",
        ],
    ),
    (
        "the namespaces of the host, and not one for users",
        &[
            "bad_input::namespaces_that_contradict_are_refused",
            "bad_input::sysctls_of_the_host_are_refused",
            "hooks::a_runtime_hook_can_work_on_the_containers_network",
            "mounts::the_default_file_systems_are_what_they_should_be",
            "namespaces::a_joined_time_namespace_brings_its_offsets",
            "namespaces::a_namespace_is_joined_by_its_path",
            "namespaces::a_sysctl_value_is_written_as_it_stands",
            "namespaces::every_kind_of_namespace_can_be_inherited",
            "namespaces::listed_namespaces_are_new_and_the_others_are_inherited",
            "pods::",
            "security::read_only_paths_cannot_be_written_and_keep_their_flags",
        ],
    ),
    ("a profile that is loaded", &["security::an_apparmor_profile_confines_the_first_process_and_guests"]),
    (
        "privileges of newuidmap's, which who is traced does not gain",
        &["seccomp::a_listener_whose_courier_is_killed_is_waited_for_by_nobody"],
    ),
    (
        "a first process that nobody can look into",
        &["descriptors::only_who_may_trace_sees_what_a_waiting_init_has_open"],
    ),
];

/// The chapters that look at what a container is made of; the others work with it.
const OF_WHAT_IT_IS: &[&str] = &[
    "advisories::",
    "annotations::",
    "bad_input::",
    "hooks::",
    "mount_options::",
    "mounts::",
    "namespaces::",
    "odd_rootfs::",
    "process::",
    "propagation::",
    "seccomp::",
    "security::",
];

/// The chapters of groups, and what of them a user cannot do even where a group was delegated.
const OF_GROUPS: &[&str] = &["cgroups::", "events::", "limits::", "pause::", "update::"];
const OF_ROOTS_GROUPS: &[&str] = &[
    // A group of the caller's own lies where the caller is.
    "cgroups::a_relative_or_missing_path_still_gives_the_container_groups_of_its_own",
    // Whoever is traced gains no privileges from newuidmap.
    "cgroups::a_create_that_was_killed_",
    "cgroups::a_group_that_is_removed_before_it_is_claimed_is_no_group",
    // The test looks where the container's group of root's would be.
    "cgroups::groups_that_are_nested_deeper_than_a_path_is_long_go_with_the_container",
    "cgroups::neither_a_birth_nor_exec_writes_to_cgroup_procs",
    // Files of other users.
    "cgroups::a_container_can_be_given_a_group_below_the_one_that_is_limited",
    "cgroups::a_container_is_given_its_group_where_it_may_write_to_it",
    "cgroups::a_writable_group_on_v2_belongs_to_the_user_of_the_process",
];

/// Whether the running test is one that an ordinary user can make.
pub fn is_for_users() -> bool {
    let test = thread::current().name().unwrap_or_default().to_string();
    let is_among = |tests: &[&str]| tests.iter().any(|start| test.starts_with(start));
    match delegated() {
        Some(_) => !is_among(OF_ROOTS_GROUPS),
        None => !FOR_ROOT.iter().any(|(_, tests)| is_among(tests)),
    }
}

/// Programs and files of the user, where the user can read them.
struct Home {
    dir: TempDir,
}

impl Home {
    fn new() -> Home {
        let dir = tempfile::Builder::new().prefix("corten-user-").tempdir().expect("make a directory");
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).expect("open the directory");
        let home = Home { dir };
        fs::write(
            home.path("passwd"),
            format!("root:x:0:0::/:/bin/sh\ntester:x:{UID}:{UID}::/tmp:/bin/sh\n"),
        )
        .unwrap();
        home.give_ids(&format!("tester:{SUBORDINATE}:65536\n"));
        install(&runtime(), &home.path("corten"));
        // The paths are arguments, whatever is in them.
        home.script(
            "as-user",
            "exec unshare --mount --propagation private sh -c 'home=$1; shift; for file in passwd subuid subgid; do \
             mount --bind \"$home/$file\" /etc/$file || exit; done; for door in $DOORS; do echo 0 > $door || exit; done; \
             exec setpriv --reuid 4242 --regid 4242 --clear-groups env --unset XDG_RUNTIME_DIR HOME=/tmp \"$@\"' \
             as-user \"$home\" \"$@\"",
        );
        home.script("runtime", "exec \"$home/as-user\" \"$home/corten\" \"$@\"");
        home
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn script(&self, name: &str, line: &str) {
        let draft = self.path("draft");
        fs::write(&draft, format!("#!/bin/sh\nhome=${{0%/*}}\n{line}\n")).unwrap();
        install(&draft, &self.path(name));
    }

    /// What `/etc/subuid` and `/etc/subgid` say.
    fn give_ids(&self, text: &str) {
        fs::write(self.path("subuid"), text).unwrap();
        fs::write(self.path("subgid"), text).unwrap();
    }

    /// A bundle of the user, with the user's runtime.
    fn bundle(&self) -> Bundle {
        let mut bundle = Bundle::new();
        bundle.unset("/linux", "cgroupsPath");
        bundle.runtime = self.path("runtime");
        let dir = bundle.path().parent().unwrap().to_path_buf();
        for place in [bundle.path(), bundle.rootfs(), bundle.scratch(), dir] {
            give(&place);
        }
        fs::read_dir(bundle.rootfs())
            .unwrap()
            .flatten()
            .filter(|entry| entry.path().is_dir())
            .for_each(|entry| give(&entry.path()));
        bundle
    }
}

fn give(path: &Path) {
    chown(path, Some(UID), Some(UID)).expect("give a file to the user");
}

fn there(program: &str) -> bool {
    std::env::split_paths("/usr/bin:/bin:/usr/sbin").any(|directory| directory.join(program).is_file())
}

/// A home for the user, or the end of a test that this machine has no user for.
macro_rules! home {
    () => {{
        if !nix::unistd::geteuid().is_root() {
            skip!("only root can become another user");
        }
        if !there("newuidmap") {
            skip!("newuidmap is not installed (package uidmap)");
        }
        Home::new()
    }};
}

/// The numbers of passed and failed tests in what a test program prints.
fn results(output: &str) -> Option<(usize, usize)> {
    let line = output.lines().rev().find_map(|line| line.strip_prefix("test result: "))?;
    let number = |word: &str| {
        line.split([';', '.']).find_map(|part| part.trim().strip_suffix(word)?.trim().parse().ok())
    };
    Some((number("passed")?, number("failed")?))
}

/// Each is as much work as all other tests of a machine together.
static TURN: Mutex<()> = Mutex::new(());

/// This test program once more, as the user.
fn chapters_hold(home: &Home, words: &[&str], variables: &[(&str, &str)], fewest: usize) {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let (busybox, witness) = payloads();
    for directory in ["deps", "examples"] {
        fs::create_dir(home.path(directory)).unwrap();
    }
    install(&std::env::current_exe().unwrap(), &home.path("deps/integration"));
    install(witness, &home.path("examples/witness"));
    install(busybox, &home.path("examples/busybox"));
    let list = home.path("skipped");
    fs::write(&list, "").unwrap();
    give(&list);
    let mut command = Command::new("timeout");
    command
        .args(["-s", "KILL", "2000"])
        .arg(home.path("as-user"))
        .arg(home.path("deps/integration"))
        .args(words);
    command.env("CORTEN", home.path("corten")).env("CORTEN_SKIPPED", &list).current_dir("/");
    let output = command.envs(variables.iter().copied()).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "as a user:\n{text}");
    let (passed, failed) = results(&text).unwrap_or_else(|| panic!("no result in:\n{text}"));
    let needing_root = fs::read_to_string(&list).unwrap().lines().count();
    println!("as a user: {} passed, {needing_root} need root", passed - needing_root);
    assert_eq!(failed, 0, "{text}");
    assert!(passed - needing_root >= fewest, "only {} of {passed} were made:\n{text}", passed - needing_root);
}

#[test]
fn the_other_chapters_hold_for_an_ordinary_user() {
    // Network devices are root's; races and faults are the same for everybody, and take long. The chapter of systemd
    // has users of its own, who have one.
    let others =
        ["net_devices::", "rootless::", "races::", "faults::", "systemd::", "state::a_runtime_killed_"];
    let skipped = others.iter().chain(OF_WHAT_IT_IS).flat_map(|chapter| ["--skip", chapter]);
    chapters_hold(&home!(), &skipped.collect::<Vec<_>>(), &[], 100);
}

#[test]
fn what_a_container_is_made_of_holds_for_an_ordinary_user() {
    chapters_hold(&home!(), OF_WHAT_IT_IS, &[], 100);
}

#[test]
fn the_chapters_of_groups_hold_for_a_user_who_was_given_one() {
    let home = home!();
    let name = format!("corten-test-{}-chapters", std::process::id());
    let delegated = Delegated::new(&name);
    let variables = [("CORTEN_DELEGATED", name.as_str()), ("DOORS", &delegated.doors())];
    chapters_hold(&home, OF_GROUPS, &variables, 25);
}

#[test]
fn a_user_makes_a_container_and_joins_it() {
    let home = home!();
    let mut bundle = home.bundle();
    let report = bundle.report();
    let map = ["0", "4242", "1", "1", "200000", "65536"];
    assert_eq!((&report["uid_map"], &report["gid_map"]), (&json!(map), &json!(map)));
    assert_eq!((&report["uid"], &report["setgroups"]), (&json!(0), &json!("allow")));
    bundle.delete();
    bundle.running();
    let inside = bundle.exec(&["/witness", "report"]).ok().json();
    assert_eq!(inside["uid_map"], json!(map));
    let options = ["exec", "--user", "1000:1000", "--additional-gids", "7", &bundle.id, "/witness", "report"];
    let inside = bundle.call(options).output().ok().json();
    assert_eq!((&inside["uid"], &inside["groups"]), (&json!(1000), &json!([7])));
    bundle.kill("KILL").ok();
    bundle.wait();
    bundle.delete().ok();
    bundle.assert_nothing_left("delete");
}

#[test]
fn a_user_without_subordinate_ids_is_alone_in_its_container() {
    let home = home!();
    home.give_ids("");
    let mut bundle = home.bundle();
    let report = bundle.report();
    assert_eq!(report["uid_map"], json!(["0", "4242", "1"]));
    assert_eq!((&report["uid"], &report["setgroups"]), (&json!(0), &json!("deny")));
    bundle.delete();
    bundle.set("/process/user/additionalGids", json!([0]));
    bundle.run().refused(1, &["process.user.additionalGids", "setgroups is denied"]);
    bundle.set("/process/user", json!({"uid": 1000, "gid": 0}));
    bundle.run().refused(1, &["process.user.uid", "1000 is not mapped"]);
    bundle.assert_nothing_left("the refusals");
}

#[test]
fn what_spec_writes_for_a_user_runs() {
    let home = home!();
    let mut bundle = home.bundle();
    bundle.call(["spec", "--rootless", "--bundle"]).arg(bundle.path()).output().ok();
    bundle.config =
        serde_json::from_str(&fs::read_to_string(bundle.path().join("config.json")).unwrap()).unwrap();
    bundle.set("/process/terminal", json!(false));
    assert_eq!(bundle.report()["uid_map"], json!(["0", "4242", "1"]));
}

#[test]
fn ids_that_nobody_gave_to_the_user_are_refused_with_their_file() {
    let home = home!();
    let mut bundle = home.bundle();
    bundle.add_namespace(json!({"type": "user"}));
    let map = json!([{"containerID": 0, "hostID": 100_000, "size": 10}]);
    bundle.set("/linux/uidMappings", map.clone()).set("/linux/gidMappings", map);
    bundle.run().refused(1, &["newuidmap", "/etc/subuid"]);
    bundle.assert_nothing_left("the refusal");
}

#[test]
fn limits_without_a_delegated_group_are_refused_with_the_way_to_one() {
    let home = home!();
    for (member, value) in [
        ("/linux/resources/pids/limit", json!(64)),
        ("/linux/cgroupsPath", json!("/corten-test-not-delegated")),
    ] {
        let mut bundle = home.bundle();
        bundle.set(member, value);
        bundle.run().refused(1, &["linux.resources", "delegated", "Delegate=yes"]);
        bundle.assert_nothing_left(member);
    }
}

/// A group of root's on every hierarchy, given to the user, who runs in a group below it where that is needed.
struct Delegated {
    groups: Vec<PathBuf>,
}

impl Delegated {
    fn new(name: &str) -> Delegated {
        let mut groups = Vec::new();
        for hierarchy in hierarchies() {
            let group = hierarchy.join(name);
            if group.exists() {
                // One hierarchy may be mounted in several places.
                continue;
            }
            fs::create_dir(&group).unwrap_or_else(|error| panic!("{}: {error}", group.display()));
            for file in ["cpuset.cpus", "cpuset.mems"] {
                if let Ok(text) = fs::read_to_string(hierarchy.join(file))
                    && !hierarchy.join("cgroup.controllers").exists()
                {
                    fs::write(group.join(file), text.trim()).unwrap();
                }
            }
            for file in ["", "cgroup.procs", "cgroup.subtree_control", "cgroup.threads", "tasks"] {
                if group.join(file).exists() {
                    give(&group.join(file));
                }
            }
            if group.join("cgroup.controllers").exists() {
                fs::create_dir(group.join("own")).unwrap();
                ["own", "own/cgroup.procs"].iter().for_each(|file| give(&group.join(file)));
            }
            groups.push(group);
        }
        Delegated { groups }
    }

    /// Where the user must be to move processes in here (cgroups(7), delegation containment).
    fn doors(&self) -> String {
        let doors =
            self.groups.iter().map(|group| group.join("own/cgroup.procs")).filter(|door| door.exists());
        doors.map(|door| door.display().to_string()).collect::<Vec<_>>().join(" ")
    }

    fn file(&self, below: &str) -> Option<String> {
        self.groups.iter().find_map(|group| fs::read_to_string(group.join(below)).ok())
    }
}

impl Drop for Delegated {
    fn drop(&mut self) {
        for group in &self.groups {
            // The test has said what is wrong, if something is.
            let _ = fs::remove_dir(group.join("own"));
            let _ = fs::remove_dir(group);
        }
    }
}

/// The view is of the host's groups where the container has no cgroup namespace, and the user's among them.
#[test]
fn cve_2023_25809_a_container_of_a_user_cannot_write_to_the_users_groups() {
    let home = home!();
    let mut bundle = home.bundle();
    let name = format!("{}-writable", bundle.id);
    let _delegated = Delegated::new(&name);
    bundle.drop_namespace("cgroup");
    for mount in bundle.config["mounts"].as_array_mut().unwrap() {
        if mount["type"] == "cgroup" {
            mount["options"] = json!(["nosuid", "noexec", "nodev"]);
        }
    }
    bundle.shell(&format!(
        "for procs in /sys/fs/cgroup/{name}/cgroup.procs /sys/fs/cgroup/*/{name}/cgroup.procs; do \
         test -e $procs && /witness write $procs 0; done; true"
    ));
    let output = bundle.run().ok().stdout();
    assert!(!output.is_empty() && output.lines().all(|line| line == "EROFS"), "{output}");
}

#[test]
fn limits_hold_in_a_delegated_group() {
    let home = home!();
    let mut bundle = home.bundle();
    let name = format!("{}-delegated", bundle.id);
    let delegated = Delegated::new(&name);
    bundle.set("/linux/cgroupsPath", json!(format!("/{name}/{}", bundle.id)));
    bundle.set("/linux/resources/pids/limit", json!(64));
    bundle.args(&["/bin/sleep", "60"]);
    let create = bundle.birth("create", &[]).env("DOORS", delegated.doors()).output();
    if delegated.file("cgroup.controllers").is_some_and(|given| !given.contains("pids"))
        && delegated.file("pids.max").is_none()
    {
        skip!("this host does not hand the pids controller down");
    }
    create.ok();
    assert_eq!(delegated.file(&format!("{}/pids.max", bundle.id)).as_deref(), Some("64\n"));
    bundle.start().ok();
    let output =
        bundle.call(["exec", &bundle.id, "/bin/cat", "/proc/self/cgroup"]).env("DOORS", delegated.doors());
    let groups = output.output().ok().stdout();
    assert!(groups.lines().count() > 0 && !groups.contains("own"), "{groups}");
    bundle.kill("KILL").ok();
    bundle.wait();
    bundle.delete().ok();
    assert!(delegated.groups.iter().all(|group| !group.join(&bundle.id).exists()), "the group is left");
}

#[test]
fn sys_of_the_hosts_network_is_a_read_only_view() {
    let home = home!();
    let mut bundle = home.bundle();
    bundle.drop_namespace("network");
    bundle.config["mounts"].as_array_mut().unwrap().retain(|mount| mount["type"] != "cgroup");
    let report = bundle.report();
    let below: Vec<&Value> = report["mounts"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|mount| mount["target"].as_str().unwrap().starts_with("/sys"))
        .collect();
    assert!(below.len() > 1, "what the host mounts below its /sys: {below:#?}");
    for mount in below {
        assert!(has(&mount["options"], "ro"), "{mount}");
    }
    assert_eq!(report["namespaces"]["net"], json!(fs::read_link("/proc/self/ns/net").unwrap()));
}

#[test]
fn a_mount_of_the_host_keeps_the_flags_that_a_user_cannot_take_away() {
    let home = home!();
    let mut bundle = home.bundle();
    let flags = MsFlags::MS_RDONLY
        | MsFlags::MS_NOSUID
        | MsFlags::MS_NODEV
        | MsFlags::MS_NOEXEC
        | MsFlags::MS_NOATIME;
    let source = bundle.scratch().join("locked");
    let _mounted = Mounted::tmpfs(&source, flags);
    for (target, options) in [
        ("/tmp/bind", vec!["rbind", "rw", "suid", "dev", "exec", "relatime"]),
        ("/tmp/recursive", vec!["rbind", "rrw", "rexec"]),
        ("/tmp/again", vec!["rbind"]),
    ] {
        bundle.mount(json!({"destination": target, "source": source, "options": options}));
    }
    bundle.mount(json!({"destination": "/tmp/again", "options": ["remount", "bind", "rw", "nosymfollow"]}));
    let report = bundle.report();
    for target in ["/tmp/bind", "/tmp/recursive", "/tmp/again"] {
        let mount = mount_at(&report, target);
        for flag in ["ro", "nosuid", "nodev", "noexec", "noatime"] {
            assert!(has(&mount["options"], flag), "{flag}: {mount}");
        }
    }
    assert!(has(&mount_at(&report, "/tmp/again")["options"], "nosymfollow"), "what can be done is done");
}

#[test]
fn a_user_mounts_an_overlay() {
    let home = home!();
    let mut bundle = home.bundle();
    let layer = |name: &str| {
        let path = bundle.scratch().join(name);
        fs::create_dir(&path).unwrap();
        give(&path);
        path
    };
    let (lower, upper, work) = (layer("lower"), layer("upper"), layer("work"));
    fs::write(lower.join("below"), "from below").unwrap();
    let options = [("lowerdir", &lower), ("upperdir", &upper), ("workdir", &work)]
        .map(|(key, path)| format!("{key}={}", path.display()));
    bundle.mount(json!({"destination": "/mnt", "type": "overlay", "source": "overlay", "options": options}));
    bundle.shell("cat /mnt/below && echo above > /mnt/above");
    assert_eq!(bundle.run().ok().stdout(), "from below");
    assert_eq!(fs::read_to_string(upper.join("above")).unwrap(), "above\n");
    assert!(!lower.join("above").exists());
}

#[test]
fn a_user_may_only_raise_the_oom_score() {
    let home = home!();
    let own = fs::read_to_string("/proc/self/oom_score_adj").unwrap();
    for (asked, score) in [(300, "300"), (-900, own.trim())] {
        let mut bundle = home.bundle();
        bundle.set("/process/oomScoreAdj", json!(asked));
        assert_eq!(bundle.report()["oom_score_adj"], score, "{asked}");
        bundle.delete();
        bundle.running();
        let inside = bundle.exec(&["/witness", "report"]).ok().json();
        assert_eq!(inside["oom_score_adj"], score, "{asked}, a further process");
    }
}

#[test]
fn a_user_joins_a_first_process_that_waits_and_finds_nothing_of_the_callers_in_it() {
    let home = home!();
    for no_new_privileges in [true, false] {
        let mut bundle = home.bundle();
        bundle.set("/process/noNewPrivileges", json!(no_new_privileges));
        bundle.birth("create", &[]).env("CALLERS_SECRET", "12345").output().ok();
        let look = "tr -d '\\0' < /proc/1/environ; for fd in /proc/1/fd/*; do readlink $fd; test -d $fd && echo open; done; true";
        let seen = bundle.exec(&["/bin/sh", "-c", look]).ok().stdout();
        let harmless =
            |line: &str| ["pipe:", "socket:", "/", "/dev/null"].iter().any(|start| line.starts_with(start));
        assert!(seen.lines().count() >= 5 && seen.lines().all(harmless), "{seen}");
        assert!(!seen.contains("open") && !seen.contains("SECRET") && !seen.contains("12345"), "{seen}");
        bundle.start().ok();
        bundle.verb("delete", &["--force"]).ok();
    }
}

#[test]
fn a_first_process_that_has_files_of_the_host_open_is_looked_into_by_nobody() {
    let home = home!();
    let mut bundle = home.bundle();
    let said = bundle.scratch().join("said");
    bundle.set("/annotations", json!({"run.oci.hooks.stdout": said}));
    bundle.set("/hooks", json!({"startContainer": [{"path": "/bin/true"}]}));
    bundle.create().ok();
    bundle.exec(&["/bin/true"]).refused(255, &["has not been started", "without root"]);
}

#[test]
fn a_device_of_the_host_that_is_another_is_not_bound() {
    let home = home!();
    let mut bundle = home.bundle();
    bundle.set("/linux/devices", json!([{"path": "/dev/null", "type": "c", "major": 1, "minor": 5}]));
    bundle.run().refused(1, &["/dev/null", "another device"]);
    bundle.assert_nothing_left("the refusal");
}

#[test]
fn keys_that_are_used_up_are_refused_with_the_way_out() {
    let bundle = bundle!();
    if !there("strace") {
        skip!("needs strace");
    }
    let create = bundle.birth("create", &[]);
    let words = ["-f", "-o", "/dev/null", "-e", "trace=keyctl", "-e", "inject=keyctl:error=EDQUOT"];
    let output = under_strace(&bundle, &words, &create).output();
    output.refused(1, &["kernel.keys.maxkeys", "--no-new-keyring"]);
    bundle.assert_nothing_left("the refusal");
}

#[test]
fn a_kernel_without_keyrings_is_no_obstacle() {
    let mut bundle = bundle!();
    if !there("strace") {
        skip!("needs strace");
    }
    bundle.args(&["/bin/true"]);
    let run = bundle.birth("run", &[]);
    let words = ["-f", "-o", "/dev/null", "-e", "trace=keyctl", "-e", "inject=keyctl:error=ENOSYS"];
    under_strace(&bundle, &words, &run).output().ok();
}

#[test]
fn an_owner_of_a_tmpfs_who_is_not_mapped_is_refused() {
    let home = home!();
    let mut bundle = home.bundle();
    bundle.shell("stat -c %u /mnt");
    let mut run_with = |option: &str| {
        let mount = json!({"destination": "/mnt", "type": "tmpfs", "source": "tmpfs", "options": [option]});
        bundle.set("/mounts/7", mount).run()
    };
    assert_eq!(run_with("uid=1000").ok().stdout(), "1000\n");
    run_with("uid=4000000000").refused(1, &["mounts[7].options[0]", "is not mapped"]);
}

#[test]
fn cve_2014_8989_a_group_that_denies_cannot_be_dropped() {
    let home = home!();
    home.give_ids("");
    let mut bundle = home.bundle();
    // A file that the group of the user may not read, and all others may.
    let file = bundle.scratch().join("denied");
    fs::write(&file, "secret").unwrap();
    chown(&file, Some(0), Some(UID)).unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o604)).unwrap();
    bundle.mount(json!({"destination": "/tmp", "source": bundle.scratch(), "options": ["rbind"]}));
    bundle.shell("cat /proc/self/setgroups; /witness read /tmp/denied");
    assert_eq!(bundle.run().ok().stdout(), "deny\nEACCES\n");
}
