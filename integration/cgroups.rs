//! Cgroups: a group on every hierarchy, the view from inside, and its removal. What is limited in it is `limits.rs`.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::json;

use crate::bundle::{Bundle, bundle, skip};
use crate::call::{Call, eventually};
use crate::faults::{has_strace, under_strace};
use crate::mounts::mount_at;
use crate::namespaces::map_users;
use crate::traces::{delegated, hierarchies};

/// Whether this machine has nothing but the unified hierarchy.
pub fn unified() -> bool {
    Path::new("/sys/fs/cgroup/cgroup.controllers").exists()
}

/// Whether a controller has its files on the unified hierarchy, or can have them nowhere else.
pub fn on_v2(controller: &str) -> bool {
    unified() || (v1_hierarchy(controller).is_none() && v2_hierarchy(controller).is_some())
}

/// Where the hierarchy of a controller is mounted on the host.
pub fn hierarchy(controller: &str) -> Option<PathBuf> {
    v1_hierarchy(controller).or_else(|| v2_hierarchy(controller))
}

fn v2_hierarchy(controller: &str) -> Option<PathBuf> {
    let root = hierarchies().into_iter().find(|one| one.join("cgroup.controllers").exists())?;
    let controllers = fs::read_to_string(root.join("cgroup.controllers")).ok()?;
    controllers.split_whitespace().any(|name| name == controller).then_some(root)
}

fn v1_hierarchy(controller: &str) -> Option<PathBuf> {
    let table = fs::read_to_string("/proc/self/mountinfo").ok()?;
    table.lines().find_map(|line| {
        let (left, right) = line.split_once(" - cgroup ")?;
        let names = right.rsplit(' ').next()?;
        let place = Path::new(left.split(' ').nth(4)?).join(delegated().unwrap_or_default());
        names.split(',').any(|name| name == controller).then_some(place)
    })
}

#[test]
fn the_container_has_a_group_on_every_hierarchy() {
    let bundle = bundle!();
    bundle.create().ok();
    for hierarchy in hierarchies() {
        let group = hierarchy.join(&bundle.id);
        let members = fs::read_to_string(group.join("cgroup.procs"));
        let members = members.unwrap_or_else(|error| panic!("{}: {error}", group.display()));
        assert_eq!(members.trim(), bundle.pid().to_string(), "{}", group.display());
    }
}

/// Such a write waits for an RCU grace period, 5 to 15 ms on a quiet host (docs/lessons.md).
#[test]
fn neither_a_birth_nor_exec_writes_to_cgroup_procs() {
    if !has_strace() {
        skip!("needs strace");
    }
    let mut bundle = bundle!();
    let list = bundle.scratch().join("strace");
    let options = ["-f", "-e", "trace=open,openat,openat2", "-o", list.to_str().unwrap()];
    let watch = |bundle: &Bundle, call: Call| {
        under_strace(bundle, &options, &call).output().ok();
        let text = fs::read_to_string(&list).unwrap();
        let opened: Vec<&str> = text.lines().filter(|line| line.contains("O_WRONLY")).collect();
        assert!(!opened.is_empty(), "nothing is written? {text}");
        assert!(!opened.iter().any(|line| line.contains("cgroup.procs")), "{opened:?}");
    };
    // strace(1) stays for as long as what it follows, so the creation is that of a brief container.
    bundle.args(&["/bin/true"]);
    watch(&bundle, bundle.birth("run", &[]));
    bundle.verb("delete", &["--force"]).ok();
    bundle.running();
    watch(&bundle, bundle.call(["exec", &bundle.id, "/bin/true"]));
}

/// Of v1 nothing can be waited for, and it is asked again and again.
#[test]
fn delete_sleeps_until_the_kernel_says_that_the_group_is_empty() {
    let Some(hierarchy) = hierarchies().into_iter().find(|one| one.join("cgroup.controllers").exists())
    else {
        skip!("no cgroup v2");
    };
    if !has_strace() {
        skip!("needs strace");
    }
    let mut bundle = bundle!();
    bundle.running();
    let group = hierarchy.join(&bundle.id);
    let mut late = Command::new("sleep").arg("1").spawn().unwrap();
    fs::write(group.join("cgroup.procs"), late.id().to_string()).unwrap();
    bundle.kill("KILL").ok();
    bundle.wait();
    let list = bundle.scratch().join("strace");
    // The kernel is told that it has killed.
    let events = group.join("cgroup.events");
    let kill = group.join("cgroup.kill");
    let paths = ["-P", events.to_str().unwrap(), "-P", kill.to_str().unwrap()];
    let options = ["-y", "-o", list.to_str().unwrap(), "-e", "inject=write:retval=1"];
    let call = bundle.call(["delete", &bundle.id]);
    under_strace(&bundle, &[&options[..], &paths].concat(), &call).output().ok();
    assert!(late.wait().unwrap().success(), "it was killed");
    let text = fs::read_to_string(&list).unwrap();
    let asked = |name: &str| {
        text.lines().filter(|line| line.starts_with(name) && line.contains("cgroup.events")).count()
    };
    assert!(asked("poll(") >= 1 && asked("pread64(") <= 1 + asked("poll("), "{text}");
    assert!(asked("poll(") <= 3, "asked again and again: {text}");
    bundle.assert_nothing_left("delete");
}

#[test]
fn delete_removes_the_groups() {
    let bundle = bundle!();
    bundle.create().ok();
    assert_eq!(bundle.traces().cgroups.len(), hierarchies().len());
    bundle.verb("delete", &["--force"]).ok();
    assert_eq!(bundle.traces().cgroups.len(), 0);
}

#[test]
fn delete_by_force_removes_groups_that_the_container_made_below_its_own() {
    let Some(hierarchy) = hierarchy("pids") else { skip!("no pids controller") };
    let mut bundle = bundle!();
    bundle.running();
    let below = hierarchy.join(&bundle.id).join("below/deeper");
    fs::create_dir_all(&below).unwrap();
    bundle.verb("delete", &["--force"]).ok();
    assert!(!below.exists());
}

#[test]
fn a_process_that_leaves_its_parent_stays_in_the_group() {
    let mut bundle = bundle!();
    bundle.drop_namespace("pid").shell("setsid sleep 60 < /dev/null & echo forked; read never");
    let output = bundle.create().ok();
    bundle.start().ok();
    bundle.wait();
    assert_eq!(output.stdout(), "forked\n");
    assert_eq!(bundle.traces().processes.len(), 1);
    bundle.verb("delete", &["--force"]).ok();
    assert_eq!(bundle.traces().processes.len(), 0);
}

#[test]
fn a_relative_or_missing_path_still_gives_the_container_groups_of_its_own() {
    for path in [Some("group-of"), None] {
        let mut bundle = bundle!();
        match path {
            Some(path) => {
                let path = format!("{path}-{}", bundle.id);
                bundle.set("/linux/cgroupsPath", json!(path))
            }
            None => bundle.unset("/linux", "cgroupsPath"),
        };
        bundle.create().ok();
        let groups = bundle.traces().cgroups;
        assert!(!groups.is_empty(), "{path:?}");
        let members = groups.iter().filter(|group| {
            fs::read_to_string(group.join("cgroup.procs"))
                .is_ok_and(|text| text.trim() == bundle.pid().to_string())
        });
        assert_eq!(members.count(), hierarchies().len(), "{path:?}: {groups:?}");
        bundle.verb("delete", &["--force"]).ok();
        assert_eq!(bundle.traces().cgroups.len(), 0, "{path:?}");
    }
}

#[test]
fn the_container_sees_its_own_group_at_sys_fs_cgroup() {
    // On v2 a container without a namespace of its own has the host's tree there, and finds its group in it.
    let on_v2 = "/sys/fs/cgroup$(cut -d: -f3 /proc/self/cgroup)/pids.max";
    let file = if unified() { on_v2 } else { "/sys/fs/cgroup/pids/pids.max" };
    if hierarchy("pids").is_none() {
        skip!("no pids controller");
    }
    for namespace in [false, true] {
        let mut bundle = bundle!();
        if !namespace {
            bundle.drop_namespace("cgroup");
        }
        bundle.set("/linux/resources/pids/limit", json!(123));
        bundle.shell(&format!("cat {file}; /witness write {file} 9"));
        assert_eq!(bundle.run().ok().stdout(), "123\nEROFS\n", "cgroup namespace: {namespace}");
    }
}

#[test]
fn every_v1_hierarchy_is_mounted_by_its_name() {
    if unified() {
        skip!("no v1 hierarchies here");
    }
    let mut bundle = bundle!();
    let report = bundle.report();
    for hierarchy in hierarchies() {
        let name = hierarchy.iter().nth(4).unwrap().to_str().unwrap();
        if name == "unified" {
            continue;
        }
        let mount = mount_at(&report, &format!("/sys/fs/cgroup/{name}"));
        assert_eq!(mount["type"], "cgroup", "{name}");
        for option in ["ro", "nosuid", "nodev", "noexec"] {
            assert!(mount["options"].as_array().unwrap().contains(&json!(option)), "{name}: {mount}");
        }
    }
}

#[test]
fn a_writable_cgroup_mount_is_writable() {
    let controller = if unified() { "/sys/fs/cgroup" } else { "/sys/fs/cgroup/pids" };
    if hierarchy("pids").is_none() {
        skip!("no pids controller");
    }
    let mut bundle = bundle!();
    let mounts = bundle.config["mounts"].as_array_mut().unwrap();
    mounts.last_mut().unwrap()["options"] = json!(["nosuid", "noexec", "nodev", "rw"]);
    bundle.shell(&format!("mkdir {controller}/below && ls -d {controller}/below"));
    assert_eq!(bundle.run().ok().stdout(), format!("{controller}/below\n"));
}

#[test]
fn a_container_is_given_its_group_where_it_may_write_to_it() {
    use std::os::unix::fs::MetadataExt;

    if !unified() {
        skip!("groups are given away on cgroup v2 only");
    }
    for writable in [true, false] {
        let mut bundle = bundle!();
        bundle.add_namespace(json!({"type": "user"})).add_namespace(json!({"type": "cgroup"}));
        for map in ["uidMappings", "gidMappings"] {
            bundle
                .set(&format!("/linux/{map}"), json!([{"containerID": 0, "hostID": 100_000, "size": 65536}]));
        }
        if writable {
            let mounts = bundle.config["mounts"].as_array_mut().unwrap();
            mounts.last_mut().unwrap()["options"] = json!(["nosuid", "noexec", "nodev", "rw"]);
        }
        bundle.set("/linux/resources", json!({"memory": {"limit": 67_108_864}}));
        bundle.shell(
            "cd /sys/fs/cgroup; mkdir below && echo 0 > below/cgroup.procs && echo +memory > cgroup.subtree_control \
             && cat cgroup.subtree_control; echo max > memory.max || echo limited; exec sleep 600",
        );
        let output = bundle.create().ok();
        let owner = |file: &str| {
            let path = Path::new("/sys/fs/cgroup").join(&bundle.id).join(file);
            fs::metadata(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display())).uid()
        };
        let given = if writable { 100_000 } else { 0 };
        for file in [".", "cgroup.procs", "cgroup.threads", "cgroup.subtree_control"] {
            assert_eq!(owner(file), given, "{file}");
        }
        for file in ["memory.max", "pids.max", "cgroup.freeze", "cgroup.max.depth"] {
            assert_eq!(owner(file), 0, "{file}");
        }
        bundle.start().ok();
        eventually("the shell has tried", || output.stdout().contains("limited").then_some(()));
        assert_eq!(output.stdout(), if writable { "memory\nlimited\n" } else { "limited\n" });
        bundle.exec(&["/bin/true"]).ok();
        bundle.verb("delete", &["--force"]).ok();
        bundle.assert_nothing_left("a container with groups of its own");
    }
}

#[test]
fn a_container_can_be_given_a_group_below_the_one_that_is_limited() {
    for mapped in [false, true] {
        let mut bundle = bundle!();
        bundle.set("/annotations", json!({"run.oci.delegate-cgroup": "payload/own"}));
        if !unified() {
            let place = "annotations.run.oci.delegate-cgroup";
            bundle.create().refused(1, &[place, "only cgroup v2"]);
            bundle.assert_nothing_left("a create without cgroup v2");
            return;
        }
        if mapped {
            map_users(&mut bundle);
        }
        bundle.add_namespace(json!({"type": "cgroup"}));
        bundle.set("/linux/resources", json!({"memory": {"limit": 67_108_864}, "pids": {"limit": 20}}));
        let mounts = bundle.config["mounts"].as_array_mut().unwrap();
        mounts.last_mut().unwrap()["options"] = json!(["nosuid", "noexec", "nodev", "rw"]);
        bundle.shell(
            "cd /sys/fs/cgroup; cat /proc/self/cgroup memory.max; mkdir below && echo 0 > below/cgroup.procs && \
             echo +pids > cgroup.subtree_control && echo divided; exec sleep 600",
        );
        let output = bundle.create().ok();
        bundle.start().ok();
        eventually("the shell has divided its group", || output.stdout().contains("divided").then_some(()));
        assert_eq!(output.stdout(), "0::/\nmax\ndivided\n");
        let group = Path::new("/sys/fs/cgroup").join(&bundle.id);
        let read = |file: &str| fs::read_to_string(group.join(file)).unwrap().trim().to_string();
        let owner = |file: &str| fs::metadata(group.join(file)).unwrap().uid();
        assert_eq!((read("memory.max"), read("pids.max")), ("67108864".into(), "20".into()));
        assert_eq!(read("payload/own/below/cgroup.procs"), bundle.pid().to_string());
        let given = if mapped { 100_000 } else { 0 };
        assert_eq!((owner("payload/own"), owner("payload/own/pids.max"), owner("")), (given, 0, 0));
        // The group that is limited is the container's for every other command.
        assert_eq!(bundle.exec(&["/bin/cat", "/proc/self/cgroup"]).ok().stdout(), "0::/below\n");
        bundle.verb("update", &["--pids-limit", "1"]).ok();
        assert_eq!(read("pids.max"), "1");
        assert_ne!(bundle.exec(&["/bin/sh", "-c", "/bin/true; /bin/true"]).code(), 0);
        bundle.verb("pause", &[]).ok();
        bundle.assert_status("paused");
        assert_eq!((read("cgroup.freeze"), read("payload/own/cgroup.freeze")), ("1".into(), "0".into()));
        bundle.verb("delete", &["--force"]).ok();
        bundle.assert_nothing_left("a container with a group below its own");
    }
}

#[test]
fn of_many_who_want_one_group_one_gets_it() {
    let path = bundle!().config["linux"]["cgroupsPath"].clone();
    let mut bundles: Vec<Bundle> = (0..6).map(|_| Bundle::new()).collect();
    let calls: Vec<_> = bundles
        .iter_mut()
        .map(|bundle| bundle.set("/linux/cgroupsPath", json!(path)).birth("create", &[]).spawn())
        .collect();
    let outputs: Vec<_> = calls.into_iter().map(|call| call.wait()).collect();
    let mut winners = Vec::new();
    for (bundle, output) in bundles.iter().zip(outputs) {
        match output.code() {
            0 => winners.push(bundle),
            _ => {
                let said = ["has just been", "exists already and is not empty"];
                assert!(said.iter().any(|words| output.stderr.contains(words)), "{output}");
                bundle.assert_nothing_left("the creation of a group that somebody else has");
            }
        }
    }
    for winner in &winners {
        winner.assert_status("created");
        winner.start().ok();
    }
    assert_eq!(winners.len(), 1);
}

/// Somebody who has made it and failed removes it, between the look of another and its lock.
#[test]
fn a_group_that_is_removed_before_it_is_claimed_is_no_group() {
    if !has_strace() {
        skip!("needs strace");
    }
    let bundle = bundle!();
    let groups: Vec<PathBuf> = hierarchies().into_iter().map(|one| one.join(&bundle.id)).collect();
    let list = bundle.scratch().join("strace");
    let mut options = vec!["-o", list.to_str().unwrap(), "-e", "inject=flock:delay_enter=2000000"];
    for group in &groups {
        fs::create_dir(group).unwrap();
        options.extend(["-P", group.to_str().unwrap()]);
    }
    let create = under_strace(&bundle, &options, &bundle.birth("create", &[])).spawn();
    let claimed = eventually("a group is about to be claimed", || open_one_of(&groups));
    fs::remove_dir(&claimed).unwrap();
    create.wait().refused(1, &[claimed.to_str().unwrap(), "has just been removed by somebody else"]);
    for group in groups.iter().filter(|group| **group != claimed) {
        fs::remove_dir(group).unwrap();
    }
    bundle.assert_nothing_left("a create whose group was removed");
}

/// One that a process has open.
fn open_one_of(paths: &[PathBuf]) -> Option<PathBuf> {
    let processes = fs::read_dir("/proc").unwrap().flatten();
    let descriptors = processes.filter_map(|process| fs::read_dir(process.path().join("fd")).ok());
    let mut open = descriptors.flatten().flatten().filter_map(|link| fs::read_link(link.path()).ok());
    open.find(|path| paths.contains(path))
}

/// A container that was killed before it made the n-th of its groups: it has written down where it would, and has not
/// seen yet whether another came first.
fn killed_at_its_groups(path: &str, number: usize) -> Bundle {
    let mut bundle = Bundle::new();
    bundle.set("/linux/cgroupsPath", json!(path));
    let inject = format!("inject=mkdirat:signal=KILL:when={number}");
    let list = bundle.scratch().join("strace");
    let options = ["-o", list.to_str().unwrap(), "-e", "trace=mkdirat", "-e", &inject];
    let output = under_strace(&bundle, &options, &bundle.birth("create", &[])).output();
    assert_eq!(output.code(), 128 + 9, "{output}");
    bundle.assert_status("creating");
    bundle
}

#[test]
fn a_create_that_was_killed_at_its_groups_reaches_nobody_who_has_them_since() {
    let path = bundle!().id.clone();
    if !has_strace() {
        skip!("needs strace");
    }
    for number in 1..=hierarchies().len() {
        let killed = killed_at_its_groups(&path, number);
        let mut winner = Bundle::new();
        winner.set("/linux/cgroupsPath", json!(path)).running();
        killed.call(["kill", "--all", &killed.id, "KILL"]).output().ok();
        assert_eq!(killed.verb("ps", &["--format", "json"]).ok().json(), json!([]));
        killed.verb("delete", &["--force"]).ok();
        killed.assert_nothing_left("a create that was killed");
        winner.assert_status("running");
        winner.exec(&["/bin/true"]).ok();
        winner.verb("delete", &["--force"]).ok();
        // To the winner, those that had been made were somebody else's.
        let left = hierarchies().into_iter().filter(|one| fs::remove_dir(one.join(&path)).is_ok());
        assert_eq!(left.count(), number - 1);
    }
}

#[test]
fn a_create_that_was_killed_leaves_groups_where_somebody_is_about_to_be_born() {
    let path = bundle!().id.clone();
    if !has_strace() {
        skip!("needs strace");
    }
    for locked in [true, false] {
        let killed = killed_at_its_groups(&path, 1);
        let locks: Vec<_> = hierarchies()
            .into_iter()
            .map(|one| {
                fs::create_dir(one.join(&path)).unwrap();
                let group = fs::File::open(one.join(&path)).unwrap();
                if locked {
                    group.lock().unwrap();
                }
                group
            })
            .collect();
        killed.verb("delete", &["--force"]).ok();
        drop(locks);
        let left = hierarchies().into_iter().filter(|one| fs::remove_dir(one.join(&path)).is_ok());
        assert_eq!(left.count(), if locked { hierarchies().len() } else { 0 });
    }
}

#[test]
fn cgroup_manager_disabled_makes_no_group() {
    let mut bundle = bundle!();
    bundle.drop_namespace("cgroup").set("/linux/resources", json!({}));
    bundle.args(&["/bin/cat", "/proc/self/cgroup"]);
    bundle.write_config();
    let call = Bundle::call(&bundle, ["--cgroup-manager", "disabled", "run", "--bundle"]).arg(bundle.path());
    let seen = call.arg(&bundle.id).output().ok().stdout();
    assert!(!seen.contains(&bundle.id), "{seen}");
    bundle.set("/linux/resources", json!({"pids": {"limit": 5}}));
    bundle.write_config();
    let words = ["--log-level", "warning", "--cgroup-manager", "disabled", "run", "--bundle"];
    let output = Bundle::call(&bundle, words).arg(bundle.path()).arg(&bundle.id).output().ok();
    assert!(output.stderr.contains("nothing is limited"), "{output}");
}

#[test]
fn a_group_in_use_is_refused_and_nothing_in_it_is_harmed() {
    let mut first = bundle!();
    first.running();
    let mut second = bundle!();
    second.set("/linux/cgroupsPath", first.config["linux"]["cgroupsPath"].clone());
    let start = std::time::Instant::now();
    second.create().refused(1, &["exists already and is not empty"]);
    assert!(start.elapsed() < std::time::Duration::from_secs(5), "waited for others to end");
    second.verb("delete", &["--force"]).ok();
    first.assert_status("running");
    first.exec(&["/bin/true"]).ok();
}

/// Freezes the container, or thaws it, as an engine's own hand would.
fn freeze(bundle: &Bundle, frozen: bool) {
    let (file, value) = match hierarchy("freezer") {
        Some(freezer) => {
            (freezer.join(&bundle.id).join("freezer.state"), if frozen { "FROZEN" } else { "THAWED" })
        }
        None => {
            let unified = hierarchies().pop().expect("a hierarchy");
            (unified.join(&bundle.id).join("cgroup.freeze"), if frozen { "1" } else { "0" })
        }
    };
    fs::write(&file, value).unwrap_or_else(|error| panic!("write to {}: {error}", file.display()));
}

#[test]
fn a_frozen_container_is_paused_and_can_be_killed_and_deleted() {
    for by_force in [false, true] {
        let mut bundle = bundle!();
        bundle.running();
        freeze(&bundle, true);
        bundle.assert_status("paused");
        bundle.kill("0").ok();
        bundle.exec(&["/bin/true"]).refused(255, &["paused"]);
        bundle.start().refused(1, &["already running"]);
        bundle.delete().refused(1, &["that is not stopped: paused"]);
        if by_force {
            bundle.verb("delete", &["--force"]).ok();
        } else {
            bundle.kill("KILL").ok();
            assert_eq!(bundle.wait(), 128 + 9);
            bundle.assert_status("stopped");
            bundle.delete().ok();
        }
        bundle.assert_nothing_left("the end of a frozen container");
    }
}

#[test]
fn a_writable_group_on_v2_belongs_to_the_user_of_the_process() {
    let mut bundle = bundle!();
    map_users(&mut bundle);
    let mounts = bundle.config["mounts"].as_array_mut().unwrap();
    mounts.last_mut().unwrap()["options"] = json!(["nosuid", "noexec", "nodev", "rw"]);
    bundle.shell("mkdir /sys/fs/cgroup/below && sleep 60");
    bundle.create().ok();
    let group = hierarchy("pids").map(|pids| pids.join(&bundle.id));
    let Some(group) = group else { skip!("no pids controller") };
    let owner = |name: &str| fs::metadata(group.join(name)).unwrap().uid();
    // A group of v1 must not be given away.
    let expected = if unified() { 100_000 } else { 0 };
    assert_eq!((owner("."), owner("cgroup.procs"), owner("pids.max")), (expected, expected, 0));
    if unified() {
        bundle.start().ok();
        eventually("the container makes a group", || group.join("below").exists().then_some(()));
    }
}

#[test]
fn groups_that_are_nested_deeper_than_a_path_is_long_go_with_the_container() {
    let mut bundle = bundle!();
    bundle.running();
    let group = hierarchies().into_iter().map(|one| one.join(&bundle.id)).find(|group| group.exists());
    let name = "x".repeat(200);
    let line = "for i in $(seq 40); do mkdir $1 && cd -P $1 || exit 1; done";
    let mut shell = Call::new("sh", &bundle.scratch()).args(["-c", line, "sh", &name]);
    shell.command.current_dir(group.expect("a group"));
    shell.output().ok();
    bundle.verb("ps", &["--format", "json"]).ok();
    bundle.verb("delete", &["--force"]).ok();
    bundle.assert_nothing_left("deep groups");
}
