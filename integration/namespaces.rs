//! Namespaces: new, joined by path, inherited; mappings, time offsets, the loopback device.

use std::fs;
use std::os::unix::fs::chown;

use serde_json::json;

use crate::bundle::{Bundle, bundle, skip};
use crate::mounts::Mounted;

/// `namespaces[].type` and the kernel's name under /proc/PID/ns.
const KINDS: [(&str, &str); 8] = [
    ("pid", "pid"),
    ("network", "net"),
    ("mount", "mnt"),
    ("ipc", "ipc"),
    ("uts", "uts"),
    ("cgroup", "cgroup"),
    ("user", "user"),
    ("time", "time"),
];

fn own_namespace(name: &str) -> String {
    fs::read_link(format!("/proc/self/ns/{name}")).unwrap().to_str().unwrap().to_string()
}

/// A user namespace with its ids at 100000, and an image whose directories belong to its root, as engines unpack it.
pub fn map_users(bundle: &mut Bundle) {
    let rootfs = bundle.rootfs();
    let directories =
        fs::read_dir(&rootfs).unwrap().flatten().map(|entry| entry.path()).filter(|path| path.is_dir());
    for directory in directories.chain([rootfs.clone()]) {
        chown(&directory, Some(100_000), Some(100_000)).expect("give the image to the container's root");
    }
    bundle.add_namespace(json!({"type": "user"}));
    let mappings = json!([{"containerID": 0, "hostID": 100_000, "size": 65_536}]);
    bundle.set("/linux/uidMappings", mappings.clone()).set("/linux/gidMappings", mappings);
}

#[test]
fn listed_namespaces_are_new_and_the_others_are_inherited() {
    let mut bundle = bundle!();
    let report = bundle.report();
    for (kind, name) in KINDS {
        let listed =
            bundle.config["linux"]["namespaces"].as_array().unwrap().iter().any(|n| n["type"] == kind);
        assert_eq!(report["namespaces"][name] != own_namespace(name), listed, "{kind}");
    }
}

#[test]
fn every_kind_of_namespace_can_be_new() {
    let mut bundle = bundle!();
    map_users(&mut bundle);
    bundle.add_namespace(json!({"type": "time"}));
    let report = bundle.report();
    for (kind, name) in KINDS {
        assert_ne!(report["namespaces"][name], own_namespace(name), "{kind}");
    }
}

#[test]
fn every_kind_of_namespace_can_be_inherited() {
    let mut bundle = bundle!();
    // Without a mount namespace there is nothing to mount, mask or name.
    bundle.set("/linux/namespaces", json!([{"type": "mount"}]));
    bundle.unset("", "hostname");
    bundle.config["mounts"].as_array_mut().unwrap().retain(|mount| mount["type"] != "sysfs");
    let report = bundle.report();
    for (kind, name) in KINDS {
        assert_eq!(report["namespaces"][name] == own_namespace(name), kind != "mount", "{kind}");
    }
}

#[test]
fn the_first_process_of_a_pid_namespace_is_number_one() {
    let mut bundle = bundle!();
    let report = bundle.report();
    assert_eq!(report["pid"], 1);
    assert_eq!(report["ppid"], 0);
}

#[test]
fn a_namespace_is_joined_by_its_path() {
    let mut holder = bundle!();
    holder.running();
    let pid = holder.pid();
    for kind in ["pid", "network", "ipc", "uts", "cgroup"] {
        let mut bundle = bundle!();
        let name = KINDS.iter().find(|(known, _)| *known == kind).unwrap().1;
        let path = format!("/proc/{pid}/ns/{name}");
        bundle.drop_namespace(kind).add_namespace(json!({"type": kind, "path": path}));
        if kind == "uts" {
            bundle.unset("", "hostname");
        }
        let report = bundle.report();
        let held = fs::read_link(&path).unwrap();
        assert_eq!(report["namespaces"][name], held.to_str().unwrap(), "{kind}");
        if kind == "pid" {
            assert_ne!(report["pid"], 1);
        }
    }
}

#[test]
fn a_user_namespace_is_joined_together_with_those_it_owns() {
    let mut holder = bundle!();
    map_users(&mut holder);
    holder.running();
    let pid = holder.pid();
    let mut bundle = bundle!();
    let join = |kind: &str, name: &str| json!({"type": kind, "path": format!("/proc/{pid}/ns/{name}")});
    bundle.set("/linux/namespaces", json!([
        {"type": "mount"}, {"type": "uts"}, {"type": "cgroup"}, join("user", "user"), join("network", "net"),
        join("ipc", "ipc"), join("pid", "pid"),
    ]));
    let report = bundle.report();
    for name in ["user", "net", "ipc", "pid"] {
        let held = fs::read_link(format!("/proc/{pid}/ns/{name}")).unwrap();
        assert_eq!(report["namespaces"][name], held.to_str().unwrap());
    }
    assert_eq!(report["uid"], 0);
    assert_eq!(report["uid_map"], json!(["0", "100000", "65536"]));
}

#[test]
fn a_joined_time_namespace_brings_its_offsets() {
    let mut holder = bundle!();
    holder.add_namespace(json!({"type": "time"})).set("/linux/timeOffsets/monotonic/secs", json!(4000));
    holder.running();
    let path = format!("/proc/{}/ns/time", holder.pid());
    let mut bundle = bundle!();
    bundle.add_namespace(json!({"type": "time", "path": path}));
    let report = bundle.report();
    assert_eq!(report["namespaces"]["time"], fs::read_link(&path).unwrap().to_str().unwrap());
    assert!(report["time_offsets"].as_str().unwrap().contains("4000"), "{}", report["time_offsets"]);
}

#[test]
fn a_namespace_is_joined_from_a_bind_mount_that_no_process_holds() {
    let mut bundle = bundle!();
    let place = bundle.scratch().join("net");
    fs::write(&place, "").unwrap();
    let made =
        std::process::Command::new("unshare").arg(format!("--net={}", place.display())).arg("true").status();
    if !made.is_ok_and(|status| status.success()) {
        skip!("unshare cannot bind a network namespace");
    }
    bundle.drop_namespace("network").add_namespace(json!({"type": "network", "path": place}));
    let _mounted = Mounted::adopt(&place);
    let report = bundle.report();
    assert_ne!(report["namespaces"]["net"], own_namespace("net"));
}

#[test]
fn ids_are_mapped_in_a_new_user_namespace() {
    let mut bundle = bundle!();
    map_users(&mut bundle);
    bundle.set("/process/user", json!({"uid": 1000, "gid": 1001, "additionalGids": [5, 27]}));
    let report = bundle.report();
    assert_eq!(report["uids"], json!([1000, 1000, 1000]));
    assert_eq!(report["gids"], json!([1001, 1001, 1001]));
    assert_eq!(report["groups"], json!([5, 27]));
    assert_eq!(report["uid_map"], json!(["0", "100000", "65536"]));
    assert_eq!(report["gid_map"], json!(["0", "100000", "65536"]));
    assert_eq!(report["setgroups"], "allow");
}

#[test]
fn several_mappings_are_written_in_their_order() {
    let mut bundle = bundle!();
    bundle.add_namespace(json!({"type": "user"}));
    let mappings = json!([
        {"containerID": 0, "hostID": 100_000, "size": 1000},
        {"containerID": 1000, "hostID": 0, "size": 1},
        {"containerID": 1001, "hostID": 101_001, "size": 64_535},
    ]);
    bundle.set("/linux/uidMappings", mappings.clone()).set("/linux/gidMappings", mappings);
    let report = bundle.report();
    assert_eq!(
        report["uid_map"],
        json!(["0", "100000", "1000", "1000", "0", "1", "1001", "101001", "64535"])
    );
}

#[test]
fn a_process_in_a_user_namespace_runs_as_the_mapped_user_on_the_host() {
    let mut bundle = bundle!();
    map_users(&mut bundle);
    bundle.set("/process/user", json!({"uid": 7, "gid": 8}));
    bundle.running();
    let status = fs::read_to_string(format!("/proc/{}/status", bundle.pid())).unwrap();
    assert!(status.contains("Uid:\t100007\t100007\t100007\t100007"), "{status}");
    assert!(status.contains("Gid:\t100008\t100008\t100008\t100008"), "{status}");
}

#[test]
fn the_loopback_device_of_a_new_network_namespace_is_up() {
    let mut bundle = bundle!();
    bundle.args(&["/bin/ifconfig", "lo"]);
    let output = bundle.run().ok().stdout();
    assert!(output.contains("UP LOOPBACK RUNNING"), "{output}");
    assert!(output.contains("127.0.0.1"), "{output}");
}

#[test]
fn time_offsets_shift_the_clocks_of_a_new_time_namespace() {
    let mut bundle = bundle!();
    bundle.add_namespace(json!({"type": "time"}));
    let offsets =
        json!({"monotonic": {"secs": 1000, "nanosecs": 7}, "boottime": {"secs": -20, "nanosecs": 3}});
    bundle.set("/linux/timeOffsets", offsets);
    let text = bundle.report()["time_offsets"].as_str().unwrap().to_string();
    let words: Vec<&str> = text.split_whitespace().collect();
    assert_eq!(words, ["monotonic", "1000", "7", "boottime", "-20", "3"]);
}

#[test]
fn a_new_user_namespace_can_have_time_offsets() {
    let mut bundle = bundle!();
    map_users(&mut bundle);
    bundle.add_namespace(json!({"type": "time"})).set("/linux/timeOffsets/boottime/secs", json!(500));
    let report = bundle.report();
    assert!(report["time_offsets"].as_str().unwrap().contains("500"), "{}", report["time_offsets"]);
    assert_eq!(report["pid"], 1);
}

#[test]
fn a_new_user_namespace_can_join_a_pid_namespace() {
    let mut holder = bundle!();
    holder.running();
    let path = format!("/proc/{}/ns/pid", holder.pid());
    let mut bundle = bundle!();
    map_users(&mut bundle);
    bundle.drop_namespace("pid").add_namespace(json!({"type": "pid", "path": path}));
    // proc shows the pid namespace of who mounts it, and that one belongs to another user namespace.
    bundle.config["mounts"][0] =
        json!({"destination": "/proc", "type": "bind", "source": "/proc", "options": ["rbind"]});
    bundle.set("/linux/maskedPaths", json!([])).set("/linux/readonlyPaths", json!([]));
    bundle.shell("readlink /proc/self/ns/user; echo $$");
    let output = bundle.run().ok().stdout();
    assert!(!output.contains(&own_namespace("user")), "{output}");
}

#[test]
fn hostname_and_domainname_are_set_in_the_uts_namespace() {
    let mut bundle = bundle!();
    bundle.set("/hostname", json!("web-1")).set("/domainname", json!("example.org"));
    let report = bundle.report();
    assert_eq!(report["hostname"], "web-1");
    assert_eq!(report["domainname"], "example.org");
}

#[test]
fn a_cgroup_namespace_is_rooted_at_the_containers_own_group() {
    let mut bundle = bundle!();
    let report = bundle.report();
    let lines: Vec<String> = serde_json::from_value(report["cgroup"].clone()).unwrap();
    assert!(!lines.is_empty());
    for line in lines {
        // A hierarchy on which the container has no group of its own shows the way up to it.
        let path = line.rsplit(':').next().unwrap();
        assert!(!path.contains(&bundle.id), "{line}");
    }
}

#[test]
fn a_mount_namespace_keeps_its_mounts_from_the_host() {
    let mut bundle = bundle!();
    bundle.running();
    assert_eq!(bundle.traces().mounts.len(), 0);
}

#[test]
fn sysctls_are_written_in_the_namespaces_that_own_them() {
    let mut bundle = bundle!();
    let sysctls: [(&str, &str); 4] = [
        ("net.ipv4.ip_forward", "1"),
        ("net/ipv4/conf/lo/rp_filter", "2"),
        ("kernel.shm_rmid_forced", "1"),
        ("fs.mqueue.msg_max", "17"),
    ];
    for (key, value) in sysctls {
        bundle.config["linux"]["sysctl"][key] = json!(value);
    }
    bundle.shell(
        "cat /proc/sys/net/ipv4/ip_forward /proc/sys/net/ipv4/conf/lo/rp_filter /proc/sys/kernel/shm_rmid_forced \
         /proc/sys/fs/mqueue/msg_max",
    );
    assert_eq!(bundle.run().ok().stdout(), "1\n2\n1\n17\n");
}

#[test]
fn a_sysctl_value_is_written_as_it_stands() {
    let mut bundle = bundle!();
    // CVE-2022-0811: a value with `+` or blanks is one value of one sysctl, and nothing else.
    bundle.config["linux"]["sysctl"]["kernel.domainname"] = json!("a+kernel.core_pattern=|x");
    let before = fs::read_to_string("/proc/sys/kernel/core_pattern").unwrap();
    let report = bundle.report();
    assert_eq!(report["domainname"], "a+kernel.core_pattern=|x");
    assert_eq!(fs::read_to_string("/proc/sys/kernel/core_pattern").unwrap(), before);
}
