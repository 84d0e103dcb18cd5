//! The trees, against a directory that looks like hierarchies; `real.rs` has the same against this host's own.

mod real;

use std::fs;
use std::os::fd::{AsFd, AsRawFd};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use oci_spec::runtime::LinuxResources;
use tempfile::TempDir;

use super::*;
use crate::plan::cgroup::{CgroupLayout, Version};
use crate::plan::facts::{self, Authority};
use crate::plan::limits::{self, Limits};

impl dyn Cgroup {
    /// All limits at once, as nobody but a test wants them.
    fn apply(&self, limits: &Limits) -> Result<()> {
        limits.devices.iter().try_for_each(|devices| self.restrict_devices(devices))?;
        self.set_limits(&limits.settings)
    }
}

fn open(layout: &CgroupLayout, path: &Path) -> Result<Box<dyn Cgroup>> {
    super::open(layout, path, None)
}

/// A layout in a directory, whose groups exist with these files in them.
pub(super) struct Fake {
    directory: TempDir,
    layout: CgroupLayout,
}

const PATH: &str = "pods/web";

impl Fake {
    pub(super) fn v1(controllers: &[&str]) -> Fake {
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

    pub(super) fn v2(controllers: &str) -> Fake {
        let directory = tempfile::tempdir().unwrap();
        let hierarchy = Hierarchy {
            controllers: controllers.split(' ').map(String::from).collect(),
            directory: PathBuf::new(),
        };
        let layout = CgroupLayout { root: directory.path().to_owned(), v1: vec![], v2: Some(hierarchy) };
        Fake { directory, layout }
    }

    /// What the kernel would have put there.
    pub(super) fn file(self, name: &str, content: &str) -> Fake {
        let path = self.directory.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
        self
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.directory.path().join(name)).unwrap()
    }

    pub(super) fn open(&self) -> Box<dyn Cgroup> {
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

#[test]
fn a_missing_file_is_none_where_the_kernel_has_another() {
    let fake = Fake::v2("io memory")
        .file("pods/web/cgroup.freeze", "0\n")
        .file("pods/web/io.weight", "")
        .file("pods/web/memory.max", "");
    fake.open()
        .apply(&fake.limits(r#"{"blockIO": {"weight": 1000}, "memory": {"limit": 5, "swap": 5}}"#))
        .unwrap();
    assert_eq!(fake.read("pods/web/io.weight"), "10000");
    assert_eq!(fake.read("pods/web/memory.max"), "5");
}

#[test]
fn a_controller_that_is_not_handed_down_is_named() {
    let fake = Fake::v2("cpu memory")
        .file("pods/web/cgroup.freeze", "0\n")
        .file("cgroup.controllers", "cpu memory")
        .file("cgroup.subtree_control", "memory")
        .file("pods/cgroup.controllers", "memory")
        .file("pods/web/cgroup.controllers", "memory");
    assert_eq!(
        fake.refusal(r#"{"cpu": {"shares": 1024}}"#),
        "linux.resources.cpu.shares: ROOT/pods/web/cpu.weight is missing: \
         ROOT/pods has no cpu controller to hand down"
    );
}

#[test]
fn controllers_are_enabled_in_every_group_above() {
    let fake = Fake::v2("cpu memory pids")
        .file("cgroup.subtree_control", "cpu memory")
        .file("pods/cgroup.subtree_control", "")
        .file("pods/web/cgroup.procs", "")
        .file("pods/web/cgroup.freeze", "0\n")
        .file("pods/web/cgroup.type", "domain\n");
    let mut cgroup = fake.open();
    cgroup.create().unwrap();
    assert!(cgroup.birthplace().is_some());
    // Over what was there, since this is a file and not a kernel.
    assert!(fake.read("cgroup.subtree_control").starts_with("+pids"));
    assert_eq!(fake.read("pods/cgroup.subtree_control"), "+cpu +memory +pids");
}

#[test]
fn a_group_that_cannot_be_a_domain_becomes_threaded() {
    let fake = Fake::v2("cpu")
        .file("cgroup.subtree_control", "cpu")
        .file("pods/cgroup.subtree_control", "cpu")
        .file("pods/web/cgroup.procs", "")
        .file("pods/web/cgroup.freeze", "0\n")
        .file("pods/web/cgroup.type", "domain invalid\n");
    fake.open().create().unwrap();
    assert!(fake.read("pods/web/cgroup.type").starts_with("threaded"));
}

#[test]
fn a_group_with_processes_or_frozen_is_refused() {
    let v1 = Fake::v1(&["pids"]).file("pids/pods/web/cgroup.procs", "17\n");
    let v2 = Fake::v2("pids").file("pods/web/cgroup.procs", "").file("pods/web/cgroup.freeze", "1\n");
    let freezer = Fake::v1(&["freezer"])
        .file("freezer/pods/web/cgroup.procs", "")
        .file("freezer/pods/web/freezer.state", "FROZEN\n");
    let said = |fake: &Fake| open(&fake.layout, Path::new(PATH)).err().unwrap().to_string();
    assert!(said(&v1).ends_with("exists already and is not empty: process 17 is in it"), "{}", said(&v1));
    assert!(said(&v2).ends_with("exists already and is frozen"), "{}", said(&v2));
    assert!(said(&freezer).ends_with("exists already and is frozen"), "{}", said(&freezer));
}

#[test]
fn a_new_cpuset_has_what_its_parent_has_on_the_whole_way_down() {
    let fake = Fake::v1(&["cpuset"]).file("cpuset/cpuset.cpus", "0-3\n").file("cpuset/cpuset.mems", "\n");
    let error = format!("{:#}", fake.open().create().unwrap_err());
    // A kernel would have made the files of the new group.
    assert!(error.ends_with("cpuset/pods/cpuset.cpus: ENOENT: No such file or directory"), "{error}");
}

#[test]
fn removal_takes_what_was_made_and_leaves_what_was_found() {
    let fake = Fake::v1(&["pids"]).file("pids/pods/keep", "");
    let cgroup = fake.open();
    let web = fake.directory.path().join("pids/pods/web");
    fs::create_dir_all(web.join("nested/deep")).unwrap();
    cgroup.remove().unwrap();
    assert!(!web.exists());
    assert!(web.parent().unwrap().exists());

    let adopted = Fake::v1(&["pids"]).file("pids/pods/web/pids.max", "");
    let web = adopted.directory.path().join("pids/pods/web");
    let cgroup = adopted.open();
    fs::create_dir(web.join("nested")).unwrap();
    cgroup.remove().unwrap();
    assert!(web.exists() && !web.join("nested").exists());
}

#[test]
fn removal_takes_the_parents_that_were_made_unless_somebody_uses_them() {
    for used in [false, true] {
        let fake = Fake::v1(&["pids"]).file("pids/tasks", "");
        let cgroup = fake.open();
        let pods = fake.directory.path().join("pids/pods");
        fs::create_dir_all(pods.join("web")).unwrap();
        if used {
            fs::create_dir(pods.join("other")).unwrap();
        }
        cgroup.remove().unwrap();
        assert_eq!(pods.exists(), used);
    }
}

#[test]
fn a_location_survives_the_state_file() {
    let fake = Fake::v1(&["cpu,cpuacct", "name=systemd"]);
    let location = fake.open().location();
    let json = serde_json::to_string(&location).unwrap();
    assert_eq!(serde_json::from_str::<Location>(&json).unwrap(), location);
    assert_eq!(reopen(&location).unwrap().location(), location);
}

#[test]
fn a_user_who_may_not_make_groups_is_told_apart() {
    let denied = |errno: Errno| {
        is_denied(&anyhow::anyhow!(errno).context("make /sys/fs/cgroup/web").context("create"))
    };
    assert!([Errno::EACCES, Errno::EPERM, Errno::EROFS].into_iter().all(denied));
    assert!(!denied(Errno::ENOSPC));
}
