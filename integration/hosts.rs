//! Hosts of every kind: hierarchies under other names and together, groups of threads, controllers without a device.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use serde_json::json;

use crate::bundle::{Bundle, bundle, skip};
use crate::call::{Call, eventually};
use crate::cgroups::{hierarchy, unified};
use crate::traces::hierarchies;

/// A controller is in one hierarchy at a time.
static TURN: Mutex<()> = Mutex::new(());

/// A mount namespace in which controllers of v1 are mounted where nobody expects them; it ends with the value.
struct Elsewhere {
    holder: Child,
    place: PathBuf,
    controller: String,
    /// How many groups there are without those of the test.
    groups: Option<usize>,
    _turn: MutexGuard<'static, ()>,
}

/// The number of groups in the hierarchy of a controller, with those that are being removed (`/proc/cgroups`).
fn groups_of(controller: &str) -> Option<usize> {
    let table = fs::read_to_string("/proc/cgroups").ok()?;
    let row = table.lines().map(|line| line.split('\t')).find(|row| row.clone().next() == Some(controller));
    row?.nth(2)?.parse().ok()
}

impl Elsewhere {
    /// None where the kernel does not have these controllers for v1, all in one hierarchy.
    fn mount(bundle: &Bundle, controllers: &str) -> Option<Elsewhere> {
        let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        let place = bundle.scratch().join("elsewhere");
        fs::create_dir(&place).unwrap();
        let controller = controllers.split(',').next().unwrap();
        let taken_away = hierarchy(controller);
        let script =
            "[ -z \"$3\" ] || umount \"$3\"; mount -t cgroup -o \"$1\" none \"$2\" || exit 1; exec sleep 600";
        let holder = Command::new("unshare")
            .args(["--mount", "--propagation", "private", "sh", "-c", script, "sh", controllers])
            .arg(&place)
            .arg(taken_away.unwrap_or_default())
            .stderr(Stdio::null())
            .spawn()
            .expect("run unshare");
        let mut elsewhere =
            Elsewhere { holder, place, controller: controller.into(), groups: None, _turn: turn };
        eventually("it is mounted, or cannot be", || {
            let ended = elsewhere.holder.try_wait().unwrap().is_some();
            (ended || elsewhere.path("tasks").exists()).then_some(())
        });
        elsewhere.groups = groups_of(controller);
        elsewhere.path("tasks").exists().then_some(elsewhere)
    }

    /// As the holder sees it.
    fn path(&self, inside: &str) -> PathBuf {
        let place = self.place.strip_prefix("/").unwrap().join(inside);
        Path::new("/proc").join(self.holder.id().to_string()).join("root").join(place)
    }

    /// The same call, made there.
    fn call(&self, bundle: &Bundle, call: Call) -> Call {
        let namespace = format!("--mount=/proc/{}/ns/mnt", self.holder.id());
        // By a path that does not begin in a directory of ours.
        let program = fs::canonicalize(call.command.get_program()).expect("a program");
        let there = Call::new("nsenter", &bundle.scratch()).arg(namespace).arg(program);
        there.args(call.command.get_args())
    }
}

impl Drop for Elsewhere {
    fn drop(&mut self) {
        // A hierarchy that is not empty outlives its last mount, and then nobody can mount its controllers otherwise.
        for _ in 0..200 {
            if groups_of(&self.controller) <= self.groups {
                break;
            }
            thread::sleep(Duration::from_millis(10));
        }
        // It has ended already where it could not mount.
        let _ = self.holder.kill();
        let _ = self.holder.wait();
    }
}

#[test]
fn hierarchies_that_are_renamed_and_share_controllers_are_found_where_they_are() {
    let mut bundle = bundle!();
    let together = if unified() || hierarchy("net_cls").is_none() {
        "net_cls,net_prio,perf_event"
    } else {
        "net_cls,net_prio"
    };
    let Some(elsewhere) = Elsewhere::mount(&bundle, together) else {
        skip!("this kernel has no {together} for one hierarchy of v1");
    };
    let priority = json!([{"name": "lo", "priority": 5}]);
    bundle.set("/linux/resources/network", json!({"classID": 1_048_577, "priorities": priority}));
    bundle.args(&["/bin/sleep", "600"]);
    if unified() {
        // There it is a tmpfs with hierarchies below it, or the one hierarchy; nobody looks beside that.
        elsewhere
            .call(&bundle, bundle.birth("create", &[]))
            .output()
            .refused(1, &["linux.resources.network"]);
        return;
    }
    elsewhere.call(&bundle, bundle.birth("create", &[])).output().ok();
    let group = elsewhere.path(&bundle.id);
    let read = |file: &str| fs::read_to_string(group.join(file)).unwrap();
    assert_eq!(read("net_cls.classid"), "1048577\n");
    assert!(read("net_prio.ifpriomap").lines().any(|line| line == "lo 5"));
    assert_eq!(read("cgroup.procs"), format!("{}\n", bundle.pid()));
    elsewhere.call(&bundle, bundle.call(["start", &bundle.id])).output().ok();
    let exec = elsewhere.call(&bundle, bundle.call(["exec", &bundle.id, "/bin/cat", "/proc/self/cgroup"]));
    let groups = exec.output().ok().stdout();
    let entered = groups.lines().any(|line| line.contains("net_cls") && line.ends_with(":/"));
    assert!(entered, "not in the container's group: {groups}");
    elsewhere.call(&bundle, bundle.call(["delete", "--force", &bundle.id])).output().ok();
    bundle.wait();
    assert!(!group.exists());
}

/// What a program of the host says; None if it is missing or fails.
fn said(program: &str, words: &[&str]) -> Option<String> {
    let output = Command::new(program).args(words).output().ok().filter(|output| output.status.success())?;
    Some(String::from_utf8_lossy(&output.stdout).into_owned())
}

#[test]
fn packets_bear_the_class_of_their_senders_group() {
    let mut bundle = bundle!();
    let sends = "icmp type echo-request meta cgroup";
    let rules = format!(
        "table ip packets {{ chain sent {{ type filter hook output priority 0; \
         {sends} 0x100001 counter; {sends} != 0x100001 counter; }}; }}"
    );
    if said("unshare", &["--net", "nft", &rules]).is_none() {
        skip!("needs nft, and a packet filter that knows the classes of groups");
    }
    let together = "net_cls,net_prio";
    let Some(elsewhere) = Elsewhere::mount(&bundle, together).filter(|_| !unified()) else {
        skip!("no {together} of v1 beside other hierarchies");
    };
    bundle.set("/linux/resources/network", json!({"classID": 0x10_0001}));
    bundle.privileged().shell("/bin/busybox ping -c 3 127.0.0.1 > /dev/null; echo sent; exec sleep 600");
    let output = elsewhere.call(&bundle, bundle.birth("create", &[])).output().ok();
    let namespace = format!("--net=/proc/{}/ns/net", bundle.pid());
    let nft = |words: &[&str]| said("nsenter", &[&[&namespace, "nft"][..], words].concat());
    nft(&[&rules]).expect("set the rules");
    elsewhere.call(&bundle, bundle.call(["start", &bundle.id])).output().ok();
    eventually("packets are sent", || output.stdout().contains("sent").then_some(()));
    let listed = nft(&["list", "table", "ip", "packets"]).expect("the rules");
    let counted = |words: &str| listed.lines().any(|line| line.contains(words));
    assert!(counted("cgroup 1048577 counter packets 3 "), "{listed}");
    assert!(counted("cgroup != 1048577 counter packets 0 "), "{listed}");
    elsewhere.call(&bundle, bundle.call(["delete", "--force", &bundle.id])).output().ok();
    bundle.wait();
}

/// Two ends of a cable in the network namespace of the host, the only one whose devices have priorities of groups. What
/// is sent into one with the priority `7:5` is counted there.
struct Cable(String);

impl Cable {
    const PRIORITY: u32 = 0x7_0005;

    fn new() -> Option<Cable> {
        let name = format!("ct{}", std::process::id());
        let other = format!("{name}-");
        said("ip", &["link", "add", &name, "type", "veth", "peer", "name", &other])?;
        let cable = Cable(name);
        let name = cable.0.as_str();
        // Nothing but ours is to be sent.
        for end in [name, &other] {
            let _ = fs::write(format!("/proc/sys/net/ipv6/conf/{end}/disable_ipv6"), "1");
        }
        for words in [
            &["ip", "addr", "add", "198.51.100.1/30", "dev", name][..],
            &["ip", "link", "set", name, "up"],
            &["ip", "link", "set", &other, "up"],
            &["ip", "neigh", "add", "198.51.100.2", "lladdr", "02:00:00:00:00:01", "dev", name],
            &["tc", "qdisc", "add", "dev", name, "root", "handle", "7:", "htb"],
            &["tc", "class", "add", "dev", name, "parent", "7:", "classid", "7:5", "htb", "rate", "1gbit"],
        ] {
            said(words[0], &words[1..])?;
        }
        Some(cable)
    }

    fn counted(&self) -> String {
        said("tc", &["-s", "class", "show", "dev", &self.0]).expect("the classes")
    }
}

impl Drop for Cable {
    fn drop(&mut self) {
        said("ip", &["link", "delete", &self.0]);
    }
}

#[test]
fn packets_have_the_priority_of_their_senders_group() {
    let mut bundle = bundle!();
    let together = "net_cls,net_prio";
    let Some(elsewhere) = Elsewhere::mount(&bundle, together).filter(|_| !unified()) else {
        skip!("no {together} of v1 beside other hierarchies");
    };
    let Some(cable) = Cable::new() else {
        skip!("needs ip and tc, and a kernel with veth and htb");
    };
    let ping = "/bin/busybox ping -W 1 -c 3 198.51.100.2 > /dev/null";
    for (priorities, packets) in [
        (json!([{"name": cable.0, "priority": 0}]), 0),
        (json!([{"name": cable.0, "priority": Cable::PRIORITY}]), 3),
    ] {
        bundle.set("/linux/resources/network", json!({"priorities": priorities}));
        bundle.drop_namespace("network").privileged().shell(&format!("{ping}; true"));
        elsewhere.call(&bundle, bundle.birth("run", &[])).output().ok();
        let counted = cable.counted();
        assert!(counted.contains(&format!(" bytes {packets} pkt ")), "{counted}");
    }
}

/// A group of threads on the v2 hierarchy, and with it another one above, below which there are no other domains.
struct Threaded(PathBuf);

impl Threaded {
    fn new(bundle: &Bundle) -> Option<Threaded> {
        let v2 = hierarchies().into_iter().find(|one| one.join("cgroup.controllers").exists())?;
        let root = Threaded(v2.join(format!("{}-threads", bundle.id)));
        fs::create_dir_all(root.0.join("some")).unwrap();
        fs::write(root.0.join("some/cgroup.type"), "threaded").unwrap();
        Some(root)
    }
}

impl Drop for Threaded {
    fn drop(&mut self) {
        // Nobody is in there but a container that could not be deleted.
        let _ = fs::remove_dir(self.0.join("some"));
        for hierarchy in hierarchies() {
            let _ = fs::remove_dir(hierarchy.join(self.0.file_name().unwrap()));
        }
    }
}

#[test]
fn where_a_group_cannot_be_a_domain_it_is_one_of_threads() {
    let mut bundle = bundle!();
    let Some(threaded) = Threaded::new(&bundle) else { skip!("no cgroup v2") };
    if unified() {
        bundle.set("/linux/resources", json!({"pids": {"limit": 20}, "cpu": {"shares": 512}}));
    }
    for (path, by_force) in [("container", false), ("two/below/container", true)] {
        let group = threaded.0.join(path);
        bundle.set("/linux/cgroupsPath", json!(format!("/{}-threads/{path}", bundle.id)));
        bundle.running();
        let read = |file: &str| fs::read_to_string(group.join(file)).unwrap();
        assert_eq!(read("cgroup.type"), "threaded\n");
        if unified() {
            assert_eq!((read("pids.max").as_str(), read("cpu.weight").as_str()), ("20\n", "59\n"));
        }
        bundle.exec(&["/bin/true"]).ok();
        let ps = bundle.verb("ps", &["--format", "json"]).ok().json();
        assert_eq!(ps, json!([bundle.pid()]));
        bundle.verb("pause", &[]).ok();
        bundle.assert_status("paused");
        if by_force {
            bundle.verb("delete", &["--force"]).ok();
        } else {
            bundle.verb("resume", &[]).ok();
            bundle.call(["kill", "--all", &bundle.id, "KILL"]).output().ok();
            assert_eq!(bundle.wait(), 128 + 9);
            bundle.delete().ok();
        }
        assert!(!group.exists());
        bundle.reap_orphans();
    }
}

#[test]
fn nobody_is_born_below_a_frozen_group() {
    let mut bundle = bundle!();
    let (root, file, still, moving) = match hierarchy("freezer") {
        Some(root) => (root, "freezer.state", "FROZEN", "THAWED"),
        None => ("/sys/fs/cgroup".into(), "cgroup.freeze", "1", "0"),
    };
    let above = root.join(format!("{}-still", bundle.id));
    if let Err(error) = fs::create_dir(&above) {
        skip!("no groups can be made in {}: {error}", root.display());
    }
    fs::write(above.join(file), still).unwrap();
    bundle.set("/linux/cgroupsPath", json!(format!("/{}-still/some/container", bundle.id)));
    let refused = bundle.create();
    fs::write(above.join(file), moving).unwrap();
    refused.refused(1, &[above.to_str().unwrap(), "is frozen"]);
    bundle.running();
    bundle.verb("delete", &["--force"]).ok();
    fs::remove_dir(&above).unwrap();
}

#[test]
fn a_controller_that_a_group_of_threads_cannot_have_is_refused_by_name() {
    let mut bundle = bundle!();
    if !unified() {
        skip!("needs the memory controller on cgroup v2");
    }
    let Some(_threaded) = Threaded::new(&bundle) else { skip!("no cgroup v2") };
    bundle.set("/linux/cgroupsPath", json!(format!("/{}-threads/container", bundle.id)));
    bundle.set("/linux/resources/memory", json!({"limit": 67_108_864}));
    bundle.create().refused(1, &["linux.resources.memory.limit", "memory.max", "a group of threads"]);
}

#[test]
fn a_group_with_processes_in_it_hands_no_controllers_down_and_is_named() {
    let mut bundle = bundle!();
    if !unified() {
        skip!("needs the memory controller on cgroup v2");
    }
    let busy = Path::new("/sys/fs/cgroup").join(format!("{}-busy", bundle.id));
    fs::create_dir(&busy).unwrap();
    let mut process = Command::new("sleep").arg("600").spawn().expect("run sleep");
    fs::write(busy.join("cgroup.procs"), process.id().to_string()).unwrap();
    bundle.set("/linux/cgroupsPath", json!(format!("/{}-busy/container", bundle.id)));
    // What nobody asks for is not missed.
    bundle.running();
    bundle.verb("delete", &["--force"]).ok();
    bundle.set("/linux/resources/memory", json!({"limit": 67_108_864}));
    let refused = bundle.create();
    process.kill().unwrap();
    process.wait().unwrap();
    fs::remove_dir(&busy).unwrap();
    refused.refused(1, &["linux.resources.memory.limit", "memory.max", "processes are in that group itself"]);
}

#[test]
fn a_limit_on_what_this_machine_does_not_have_is_refused_by_its_place() {
    let mut bundle = bundle!();
    for (pointer, value, phrases) in [
        ("rdma", json!({"none0": {"hcaHandles": 3}}), &["linux.resources.rdma[\"none0\"]", "rdma.max"][..]),
        ("unified", json!({"misc.max": "none 1"}), &["linux.resources.unified[\"misc.max\"]", "misc.max"]),
        (
            "network",
            json!({"priorities": [{"name": "none0", "priority": 5}]}),
            &["linux.resources.network.priorities"],
        ),
        (
            "hugepageLimits",
            json!([{"pageSize": "3MB", "limit": 0}]),
            &["linux.resources.hugepageLimits[0].limit", "hugetlb.3MB."],
        ),
        ("blockIO", json!({"leafWeight": 300}), &["linux.resources.blockIO.leafWeight", "blkio.leaf_weight"]),
    ] {
        bundle.set("/linux/resources", json!({pointer: value}));
        bundle.create().refused(1, phrases);
        bundle.assert_nothing_left(pointer);
    }
}
