//! The trees, against a directory that looks like hierarchies, and as root against this host's own.

use std::fs;
use std::io::Write;
use std::os::fd::AsRawFd;
use std::process::{Child, Command, Stdio};

use oci_spec::runtime::LinuxResources;
use tempfile::TempDir;

use super::*;
use crate::plan::facts::{self, Authority};
use crate::plan::limits;

/// A layout in a directory, whose groups exist with these files in them.
struct Fake {
    directory: TempDir,
    layout: CgroupLayout,
}

const PATH: &str = "pods/web";

impl Fake {
    fn v1(controllers: &[&str]) -> Fake {
        let directory = tempfile::tempdir().unwrap();
        let v1 = controllers
            .iter()
            .map(|name| Hierarchy {
                controllers: name.split(',').map(String::from).collect(),
                directory: name.into(),
            })
            .collect();
        let layout = CgroupLayout { root: directory.path().to_owned(), v1, v2: None };
        Fake { directory, layout }
    }

    fn v2(controllers: &str) -> Fake {
        let directory = tempfile::tempdir().unwrap();
        let hierarchy = Hierarchy {
            controllers: controllers.split(' ').map(String::from).collect(),
            directory: PathBuf::new(),
        };
        let layout = CgroupLayout { root: directory.path().to_owned(), v1: vec![], v2: Some(hierarchy) };
        Fake { directory, layout }
    }

    /// What the kernel would have put there.
    fn file(self, name: &str, content: &str) -> Fake {
        let path = self.directory.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
        self
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.directory.path().join(name)).unwrap()
    }

    fn open(&self) -> Box<dyn Cgroup> {
        open(&self.layout, Path::new(PATH)).unwrap()
    }

    fn limits(&self, json: &str) -> Limits {
        let resources: LinuxResources = serde_json::from_str(json).unwrap();
        limits::plan(Some(&resources), &self.layout, Authority::User).unwrap()
    }

    /// What applying says, with the directory's name taken out.
    fn refusal(&self, json: &str) -> String {
        let error = self.open().apply(&self.limits(json)).unwrap_err();
        format!("{error:#}").replace(self.directory.path().to_str().unwrap(), "ROOT")
    }
}

#[test]
fn limits_land_in_the_files_of_their_hierarchies() {
    let fake = Fake::v1(&["cpu,cpuacct", "memory"])
        .file("cpu,cpuacct/pods/web/cpu.shares", "")
        .file("memory/pods/web/memory.limit_in_bytes", "");
    fake.open().apply(&fake.limits(r#"{"cpu": {"shares": 512}, "memory": {"limit": 1000000}}"#)).unwrap();
    assert_eq!(fake.read("cpu,cpuacct/pods/web/cpu.shares"), "512");
    assert_eq!(fake.read("memory/pods/web/memory.limit_in_bytes"), "1000000");
}

#[test]
fn a_missing_file_is_an_error_that_names_field_and_file() {
    let fake = Fake::v1(&["cpu"]).file("cpu/pods/web/tasks", "");
    assert_eq!(
        fake.refusal(r#"{"cpu": {"idle": 1}}"#),
        "linux.resources.cpu.idle: this kernel has no ROOT/cpu/pods/web/cpu.idle"
    );
}

/// This host's hierarchies, unless the test cannot run here.
fn host(test: &str) -> Option<CgroupLayout> {
    if !nix::unistd::geteuid().is_root() {
        println!("skipped: {test}: only root makes control groups");
        return None;
    }
    let layout = facts::cgroup::layout(Path::new("/sys/fs/cgroup")).unwrap();
    if layout.v1.is_empty() && layout.v2.is_none() {
        println!("skipped: {test}: no cgroup hierarchy is mounted");
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
        let mut shell = Command::new("sh").stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
        shell.stdin.take().unwrap().write_all(format!("{enter}{script}").as_bytes()).unwrap();
        shell
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
    let Some(layout) = host("a_real_group_is_made_limited_and_removed") else { return };
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
        match layout.version_of("cpu") {
            Some(crate::plan::cgroup::Version::V1) => {
                assert_eq!(real.read("cpu", "cpu.shares"), "512");
                assert_eq!(real.read("cpu", "cpu.cfs_quota_us"), "50000");
                assert_eq!(real.read("memory", "memory.limit_in_bytes"), "67108864");
                assert_eq!(real.read("memory", "memory.memsw.limit_in_bytes"), "67108864");
            }
            _ => {
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
    let Some(layout) = host("processes_in_a_real_group_are_listed_frozen_and_killed") else { return };
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
