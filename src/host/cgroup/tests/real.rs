//! The trees as root, in groups of their own on this host's hierarchies.

use super::*;
use crate::plan::tests::absence::skip;

/// This host's hierarchies, unless the test cannot run here.
fn host() -> Option<CgroupLayout> {
    if !nix::unistd::geteuid().is_root() {
        skip("only root makes control groups");
        return None;
    }
    let layout = facts::cgroup::layout(Path::new("/sys/fs/cgroup")).unwrap();
    if layout.v1.is_empty() && layout.v2.is_none() {
        skip("no cgroup hierarchy is mounted");
        return None;
    }
    Some(layout)
}

/// A group of this host that goes away with the test, whatever happens in it.
struct Temporary {
    layout: CgroupLayout,
    cgroup: Box<dyn Cgroup>,
}

impl Temporary {
    fn new(layout: &CgroupLayout, name: &str) -> Temporary {
        let path = format!("corten-test-{name}-{}", std::process::id());
        let mut cgroup = open(layout, Path::new(&path)).unwrap();
        cgroup.create().unwrap();
        Temporary { layout: layout.clone(), cgroup }
    }

    fn apply(&self, json: &str) {
        let resources: LinuxResources = serde_json::from_str(json).unwrap();
        let limits = limits::plan(Some(&resources), &self.layout, Authority::Root).unwrap();
        self.cgroup.apply(&limits).unwrap();
    }

    fn read(&self, controller: &str, file: &str) -> String {
        let location = self.cgroup.location();
        let place = location
            .v1
            .iter()
            .chain(&location.v2)
            .find(|place| place.hierarchy.controllers.iter().any(|name| name == controller))
            .unwrap();
        let group = location.root.join(&place.hierarchy.directory).join(&place.path);
        fs::read_to_string(group.join(file)).unwrap().trim().to_string()
    }

    /// A shell that walks in through the doors (and is moved into the v2 group, to which only clone3 has a door).
    fn shell(&self, script: &str) -> Child {
        let doors: Vec<String> = self
            .cgroup
            .doors()
            .iter()
            .map(|door| format!("/proc/{}/fd/{}", std::process::id(), door.as_raw_fd()))
            .collect();
        let location = self.cgroup.location();
        let unified = location.v2.iter().map(|place| {
            location
                .root
                .join(&place.hierarchy.directory)
                .join(&place.path)
                .join("cgroup.procs")
                .display()
                .to_string()
        });
        let enter: String =
            doors.into_iter().chain(unified).map(|door| format!("echo 0 > {door}; ")).collect();
        let mut shell = Command::new("sh");
        shell
            .arg("-c")
            .arg(enter + script)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap()
    }

    fn wait_for_pids(&self, count: usize) {
        let deadline = wait::Deadline::after(Duration::from_secs(5));
        let mut pause = deadline.pause();
        while self.cgroup.pids().unwrap().len() < count {
            assert!(pause.take(), "{count} processes did not come");
        }
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        self.cgroup.kill().unwrap();
        self.cgroup.remove().unwrap();
    }
}

#[test]
fn a_real_group_is_made_limited_and_removed() {
    let Some(layout) = host() else { return };
    let location;
    {
        let real = Temporary::new(&layout, "limited");
        location = real.cgroup.location();
        real.apply(
            r#"{"cpu": {"shares": 512, "quota": 50000, "period": 100000, "burst": 20000, "cpus": "0"},
                "memory": {"limit": 67108864, "swap": 67108864, "reservation": 33554432},
                "pids": {"limit": 7}}"#,
        );
        assert_eq!(real.read("pids", "pids.max"), "7");
        match layout.has(Version::V1, "cpu") {
            true => {
                assert_eq!(real.read("cpu", "cpu.shares"), "512");
                assert_eq!(real.read("cpu", "cpu.cfs_quota_us"), "50000");
                assert_eq!(real.read("memory", "memory.limit_in_bytes"), "67108864");
                assert_eq!(real.read("memory", "memory.memsw.limit_in_bytes"), "67108864");
            }
            false => {
                assert_eq!(real.read("cpu", "cpu.weight"), "59");
                assert_eq!(real.read("cpu", "cpu.max"), "50000 100000");
                assert_eq!(real.read("memory", "memory.max"), "67108864");
                assert_eq!(real.read("memory", "memory.swap.max"), "0");
            }
        }
        assert_eq!(real.read("cpuset", "cpuset.cpus"), "0");
    }
    for place in location.v1.iter().chain(&location.v2) {
        assert!(!location.root.join(&place.hierarchy.directory).join(&place.path).exists());
    }
}

#[test]
fn processes_in_a_real_group_are_listed_frozen_and_killed() {
    let Some(layout) = host() else { return };
    let real = Temporary::new(&layout, "frozen");
    let mut shell = real.shell("sleep 1000 & sleep 1000");
    real.wait_for_pids(3);
    real.cgroup.freeze(true).unwrap();
    assert!(real.cgroup.is_frozen().unwrap());
    real.cgroup.kill().unwrap();
    shell.wait().unwrap();
    real.cgroup.remove().unwrap();
    assert_eq!(real.cgroup.pids().unwrap(), []);
}

#[test]
fn without_a_v2_hierarchy_everything_in_a_group_is_killed_too() {
    let Some(layout) = host() else { return };
    if layout.v1.is_empty() {
        skip("no cgroup v1 hierarchy is mounted");
        return;
    }
    let real = Temporary::new(&CgroupLayout { v2: None, ..layout }, "v1");
    // A shell that replaces itself all the time: a list of its processes is old at once.
    let mut shell = real.shell("sleep 1000 & while true; do sh -c 'true & true'; done");
    real.wait_for_pids(2);
    real.cgroup.kill().unwrap();
    shell.wait().unwrap();
    real.cgroup.remove().unwrap();
    assert_eq!(real.cgroup.pids().unwrap(), []);
}

#[test]
fn whoever_keeps_a_group_from_going_is_named() {
    let Some(layout) = host() else { return };
    let real = Temporary::new(&layout, "held");
    let mut shell = real.shell("exec sleep 1000");
    real.wait_for_pids(1);
    let location = real.cgroup.location();
    let place = location.v1.first().or(location.v2.as_ref()).unwrap();
    let group = Group::new(&Root::open(&location.root).unwrap(), place.clone());
    let error = format!("{:#}", group.remove(&wait::Deadline::after(Duration::ZERO)).unwrap_err());
    assert!(error.contains(&format!("which process {} (s", shell.id())), "{error}");
    assert!(error.contains("in state "), "{error}");
    shell.kill().unwrap();
    shell.wait().unwrap();
}

#[test]
fn limits_that_the_kernel_holds_against_each_other_can_be_raised_and_lowered() {
    let Some(layout) = host() else {
        return;
    };
    let real = Temporary::new(&layout, "order");
    for size in [64 << 20, 256 << 20, 32 << 20] {
        real.apply(&format!(
            r#"{{"memory": {{"limit": {size}, "swap": {size}}},
                "cpu": {{"quota": {}, "burst": {}}}}}"#,
            size >> 10,
            size >> 11
        ));
        let (file, burst) = match layout.has(Version::V1, "memory") {
            true => ("memory.limit_in_bytes", "cpu.cfs_burst_us"),
            false => ("memory.max", "cpu.max.burst"),
        };
        assert_eq!(real.read("memory", file), size.to_string());
        assert_eq!(real.read("cpu", burst), (size >> 11).to_string());
    }
}

#[test]
fn of_two_who_want_one_group_the_first_to_make_it_keeps_it() {
    let Some(layout) = host() else { return };
    let path = format!("corten-test-wanted-{}/by/two", std::process::id());
    let mut both = [open(&layout, Path::new(&path)).unwrap(), open(&layout, Path::new(&path)).unwrap()];
    let [first, second] = &mut both;
    first.create().unwrap();
    let error = second.create().unwrap_err();
    assert!(error.to_string().ends_with("has just been made by somebody else"), "{error:#}");
    // And who sees a group without processes does not take it for one that nobody wants.
    let mut third = open(&layout, Path::new(&path)).unwrap();
    let error = third.create().unwrap_err();
    assert!(error.to_string().ends_with("has just been taken by somebody else"), "{error:#}");
    for other in [second, &mut third] {
        other.kill().unwrap();
        other.remove().unwrap();
    }
    let location = first.location();
    for place in location.v1.iter().chain(&location.v2) {
        let group = layout.mount_point(&place.hierarchy).join(&path);
        assert!(group.exists(), "{} is gone", group.display());
    }
    first.remove().unwrap();
    let left = layout
        .v1
        .iter()
        .chain(&layout.v2)
        .filter(|one| layout.mount_point(one).join(Path::new(&path).iter().next().unwrap()).exists());
    assert_eq!(left.count(), 0);
}

#[test]
fn a_delegate_is_below_the_group_that_is_limited_and_ends_with_it() {
    let Some(layout) = unified() else {
        return;
    };
    let path = format!("corten-test-given-{}", std::process::id());
    let group = layout.mount_point(layout.v2.as_ref().unwrap()).join(&path);
    // The second time somebody has made the groups before.
    for found in [false, true] {
        if found {
            fs::create_dir_all(group.join("a/b")).unwrap();
        }
        let mut cgroup = super::super::open(&layout, Path::new(&path), Some(Path::new("a/b"))).unwrap();
        cgroup.create().unwrap();
        cgroup.give_to(4242).unwrap();
        let birthplace = nix::sys::stat::fstat(cgroup.birthplace().unwrap()).unwrap();
        let owner = |below: &str| {
            let status = nix::sys::stat::stat(&group.join(below)).unwrap();
            (status.st_ino == birthplace.st_ino, status.st_uid)
        };
        assert_eq!([owner("a/b"), owner("a"), owner("")], [(true, 4242), (false, 0), (false, 0)]);
        cgroup.remove().unwrap();
        assert_eq!((group.exists(), group.join("a").exists()), (found, false));
    }
    fs::remove_dir(&group).unwrap();
}

/// The v2 hierarchy alone, which this host may have beside the v1 ones.
fn unified() -> Option<CgroupLayout> {
    let layout = host()?;
    if layout.v2.is_none() {
        skip("no cgroup v2 hierarchy is mounted");
        return None;
    }
    // Its controllers are the host's business: enabling them would outlast the test.
    let v2 = layout.v2.map(|unified| Hierarchy { controllers: Vec::new(), ..unified });
    Some(CgroupLayout { v1: Vec::new(), v2, ..layout })
}

#[test]
fn a_v2_group_freezes_thaws_and_is_killed_with_those_below_it() {
    let Some(layout) = unified() else { return };
    let real = Temporary::new(&layout, "v2");
    let place = real.cgroup.location().v2.unwrap();
    let nested = layout.root.join(&place.hierarchy.directory).join(&place.path).join("nested");
    fs::create_dir(&nested).unwrap();
    let mut shell =
        real.shell(&format!("echo 0 > {}/cgroup.procs; sleep 1000 & sleep 1000", nested.display()));
    real.wait_for_pids(3);
    for frozen in [true, false, true] {
        real.cgroup.freeze(frozen).unwrap();
        assert_eq!(real.cgroup.is_frozen().unwrap(), frozen);
    }
    real.cgroup.kill().unwrap();
    shell.wait().unwrap();
    real.cgroup.remove().unwrap();
    assert!(!nested.parent().unwrap().exists());
}

#[test]
fn a_device_program_holds_and_gives_way_to_the_next() {
    let Some(layout) = unified() else { return };
    let real = Temporary::new(&layout, "devices");
    // /dev/kmsg is no default device.
    let readable = |device: &str| real.shell(&format!("exec < {device}")).wait().unwrap().success();
    let programs = || {
        let group = Group::new(&Root::open(&layout.root).unwrap(), real.cgroup.location().v2.unwrap());
        crate::sys::bpf::device_programs(group.directory().unwrap().as_fd()).unwrap()
    };
    real.apply(r#"{"devices": [{"allow": true}]}"#);
    assert!(readable("/dev/kmsg") && programs().is_empty());
    real.apply(r#"{"devices": [{"allow": false, "access": "rwm"}]}"#);
    let first = programs();
    assert!(readable("/dev/zero") && !readable("/dev/kmsg"));
    real.apply(r#"{"devices": [{"allow": true, "type": "c", "major": 1, "minor": 11, "access": "r"}]}"#);
    assert!(readable("/dev/zero") && readable("/dev/kmsg"));
    real.apply(r#"{"devices": [{"allow": true}, {"allow": false, "type": "c", "major": 1, "minor": 11, "access": "w"}]}"#);
    assert!(readable("/dev/kmsg") && !readable("/dev/kmsg; exec > /dev/kmsg"));
    assert_eq!((first.len(), programs().len()), (1, 1));
    assert_ne!(first, programs());
}

#[test]
fn there_is_no_moment_without_a_device_program_while_they_replace_each_other() {
    let Some(layout) = unified() else {
        return;
    };
    let real = Temporary::new(&layout, "replaced");
    // The two differ, and neither allows /dev/kmsg.
    let rules = [
        r#"{"devices": [{"allow": false, "access": "rwm"}]}"#,
        r#"{"devices": [{"allow": true, "type": "c", "major": 1, "minor": 2, "access": "r"}]}"#,
    ];
    real.apply(rules[0]);
    let mut opener = real.shell("while :; do true < /dev/kmsg && exit 7; true < /dev/zero || exit 8; done");
    real.wait_for_pids(1);
    for turn in 0..400 {
        real.apply(rules[turn % 2]);
    }
    assert_eq!(opener.try_wait().unwrap(), None, "a device was open to it, or one was not");
    real.cgroup.kill().unwrap();
    opener.wait().unwrap();
}

#[test]
fn v1_device_rules_hold() {
    let Some(layout) = host() else { return };
    if !layout.has(Version::V1, "devices") {
        skip("no v1 devices hierarchy is mounted");
        return;
    }
    let real = Temporary::new(&layout, "rules");
    let readable = |device: &str| real.shell(&format!("exec < {device}")).wait().unwrap().success();
    real.apply(r#"{"devices": [{"allow": false, "access": "rwm"}]}"#);
    assert!(readable("/dev/zero") && !readable("/dev/kmsg"));
    assert!(real.read("devices", "devices.list").lines().eq([
        "c *:* m",
        "b *:* m",
        "c 1:3 rwm",
        "c 1:8 rwm",
        "c 1:7 rwm",
        "c 5:0 rwm",
        "c 1:5 rwm",
        "c 1:9 rwm",
        "c 136:* rwm",
        "c 5:2 rwm",
        "c 10:200 rwm",
    ]));
}

#[test]
fn a_process_is_found_where_it_is() {
    let Some(layout) = host() else { return };
    let planned = open(&layout, Path::new("elsewhere")).unwrap().location();
    let own = of_pid(&planned, Pid::this()).unwrap();
    let listed = fs::read_to_string("/proc/self/cgroup").unwrap();
    for place in &own.v1 {
        let line = format!(":{}:/{}", place.hierarchy.controllers.join(","), place.path.display());
        assert!(listed.lines().any(|own| own.ends_with(&line)), "{line}");
        assert_eq!(place.found, place.depth());
    }
}
