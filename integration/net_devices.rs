//! Network devices that move into the container. Each test is in a network namespace of its own, which takes the
//! host's place: the runtime is started there, and veth pairs are made there.

use std::process::Command;
use std::thread;

use nix::sched::{CloneFlags, unshare};
use serde_json::{Value, json};

use crate::bundle::{Bundle, bundle, skip};
use crate::namespaces::map_users;

/// Runs a test in a thread that has a network namespace of its own, and so has everything that it starts.
#[track_caller]
fn in_a_network_of_its_own(test: impl FnOnce() + Send + 'static) {
    let name = thread::current().name().unwrap_or_default().to_string();
    let test = move || {
        unshare(CloneFlags::CLONE_NEWNET).expect("make a network namespace");
        test();
    };
    let ended = thread::Builder::new().name(name).spawn(test).expect("start a thread").join();
    ended.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
}

fn ip(words: &str) -> bool {
    Command::new("ip").args(words.split(' ')).status().is_ok_and(|status| status.success())
}

#[track_caller]
fn must(words: &str) {
    assert!(ip(words), "ip {words}");
}

/// What `ip` shows of the devices here, without what changes by itself.
fn devices() -> Value {
    let output = Command::new("ip").args(["-j", "address", "show"]).output().expect("run ip");
    let mut devices: Value = serde_json::from_slice(&output.stdout).expect("JSON from ip");
    // Who comes back is last.
    let list = devices.as_array_mut().expect("a list");
    list.sort_by_key(|device| device["ifname"].as_str().map(str::to_string));
    for device in list {
        for member in ["ifindex", "link_index", "operstate", "qdisc"] {
            device.as_object_mut().expect("a device").remove(member);
        }
        for address in device["addr_info"].as_array_mut().expect("a list") {
            for member in ["valid_life_time", "preferred_life_time", "tentative"] {
                address.as_object_mut().expect("an address").remove(member);
            }
        }
        // Addresses of the link's own come and go with it.
        device["addr_info"].as_array_mut().expect("a list").retain(|address| address["scope"] == "global");
    }
    devices
}

fn names() -> Vec<String> {
    let devices = devices();
    let names =
        devices.as_array().unwrap().iter().map(|device| device["ifname"].as_str().unwrap().to_string());
    names.filter(|name| name != "lo").collect()
}

/// A pair of which `ct0`, with all kinds of addresses, is to be moved; or the reason why there is none.
fn pair() -> Result<(), &'static str> {
    if !Command::new("ip").arg("-V").output().is_ok_and(|output| output.status.success()) {
        return Err("needs ip, of iproute2");
    }
    if !ip("link add ct0 mtu 1400 address 02:00:00:00:00:07 type veth peer name peer") {
        return Err("this kernel has no veth");
    }
    for words in [
        "link set peer up",
        "link set ct0 up",
        "address add 10.20.0.2/24 broadcast 10.20.0.255 dev ct0",
        "address add 10.20.0.3/24 dev ct0 noprefixroute",
        "address add 10.20.0.4 peer 10.21.0.1/32 dev ct0",
        "address add 10.22.0.1/32 dev ct0 scope link",
        "address add 10.23.0.1/32 dev ct0 valid_lft 1000 preferred_lft 1000",
        "address add fd00::2/64 dev ct0 nodad",
    ] {
        must(words);
    }
    Ok(())
}

macro_rules! pair {
    () => {
        if let Err(reason) = pair() {
            skip!("{reason}");
        }
    };
}

/// What busybox's ip shows in the container.
const SHOW: &[&str] = &["/bin/busybox", "ip", "address", "show"];

#[track_caller]
fn assert_moved(shown: &str, name: &str) {
    let device = format!(": {name}@");
    for part in [
        device.as_str(),
        "UP",
        "mtu 1400",
        "02:00:00:00:00:07",
        "inet 10.20.0.2/24 brd 10.20.0.255 scope global",
        "inet 10.20.0.3/24 scope global secondary noprefixroute",
        "inet 10.20.0.4 peer 10.21.0.1/32 scope global",
        "inet6 fd00::2/64 scope global",
    ] {
        assert!(shown.contains(part), "no {part:?} in {shown}");
    }
    for part in ["10.22.0.1", "10.23.0.1", "ct0 "] {
        assert!(!shown.contains(part) || name == "ct0", "{part:?} in {shown}");
    }
}

#[test]
fn a_device_moves_with_its_permanent_addresses_and_is_up() {
    in_a_network_of_its_own(|| {
        let mut bundle = bundle!();
        pair!();
        bundle.set("/linux/netDevices", json!({"ct0": {"name": "eth7"}})).args(SHOW);
        assert_moved(&bundle.run().ok().stdout(), "eth7");
        // Its end was the container's: a veth that is not moved back ends with the namespace that it is in.
        assert!(!names().contains(&"ct0".to_string()));
    });
}

#[test]
fn a_device_without_a_new_name_keeps_its_own() {
    in_a_network_of_its_own(|| {
        let mut bundle = bundle!();
        pair!();
        bundle.set("/linux/netDevices", json!({"ct0": {}})).args(SHOW);
        assert_moved(&bundle.run().ok().stdout(), "ct0");
    });
}

#[test]
fn the_kernel_makes_a_number_of_a_pattern() {
    in_a_network_of_its_own(|| {
        let mut bundle = bundle!();
        pair!();
        bundle.set("/linux/netDevices", json!({"ct0": {"name": "net%d"}, "peer": {"name": "net%d"}}));
        bundle.shell("cd /sys/class/net; echo *");
        assert_eq!(bundle.run().ok().stdout(), "lo net0 net1\n");
    });
}

#[test]
fn a_container_with_a_user_namespace_takes_devices_too() {
    in_a_network_of_its_own(|| {
        let mut bundle = bundle!();
        pair!();
        map_users(&mut bundle);
        bundle.set("/linux/netDevices", json!({"ct0": {"name": "eth0"}})).args(SHOW);
        assert_moved(&bundle.run().ok().stdout(), "eth0");
    });
}

/// A container whose network namespace others join, with devices `taken` and `ct0` in it.
#[track_caller]
fn holder() -> (Bundle, Value) {
    let mut holder = Bundle::new();
    holder.running();
    let pid = holder.pid();
    for name in ["taken", "ct0"] {
        let add = ["ip", "link", "add", name, "type", "veth", "peer", "name"];
        let mut there = Command::new("nsenter");
        there.args(["-t", &pid.to_string(), "--net"]).args(add).arg(format!("for-{name}"));
        let added = there.status().expect("run nsenter");
        assert!(added.success(), "add {name}");
    }
    (holder, json!({"type": "network", "path": format!("/proc/{pid}/ns/net")}))
}

#[test]
fn a_device_stays_in_the_namespace_that_a_container_joined() {
    in_a_network_of_its_own(|| {
        let mut bundle = bundle!();
        pair!();
        // Also where the name that it had is another's.
        let (holder, namespace) = holder();
        bundle.add_namespace(namespace).set("/linux/netDevices", json!({"ct0": {"name": "eth0"}}));
        bundle.args(&["/bin/true"]).run().ok();
        let shown = holder.exec(SHOW).ok().stdout();
        assert_moved(&shown, "eth0");
        assert!(shown.contains(": ct0@"), "{shown}");
    });
}

#[test]
fn a_name_that_is_taken_is_refused_and_the_device_stays() {
    in_a_network_of_its_own(|| {
        let mut bundle = bundle!();
        pair!();
        let (_holder, namespace) = holder();
        let before = devices();
        bundle.add_namespace(namespace);
        // The second of two: the first has been moved by then.
        bundle.set("/linux/netDevices", json!({"ct0": {"name": "first"}, "peer": {"name": "taken"}}));
        bundle.create().refused(
            1,
            &["config.json: linux.netDevices.peer: the container's network namespace has a device \"taken\" already"],
        );
        assert_eq!(devices(), before_but_temporary(before));
        bundle.assert_nothing_left("a refused create");
    });
}

/// Addresses with a lifetime are nobody's wish to keep.
fn before_but_temporary(mut before: Value) -> Value {
    for device in before.as_array_mut().unwrap() {
        device["addr_info"].as_array_mut().unwrap().retain(|address| address["dynamic"] != true);
    }
    before
}

#[test]
fn a_birth_that_fails_gives_devices_back_as_they_were() {
    in_a_network_of_its_own(|| {
        let mut bundle = bundle!();
        pair!();
        let before = before_but_temporary(devices());
        bundle.set("/linux/netDevices", json!({"ct0": {"name": "eth%d"}, "peer": {}}));
        bundle.set("/hooks/createRuntime", json!([{"path": "/bin/false"}]));
        bundle.create().refused(1, &["createRuntime hook 0 (/bin/false): exited with status 1"]);
        assert_eq!(devices(), before);
        bundle.assert_nothing_left("a refused create");
    });
}

#[test]
fn a_device_that_is_not_there_is_refused() {
    in_a_network_of_its_own(|| {
        let mut bundle = bundle!();
        pair!();
        bundle.set("/linux/netDevices", json!({"none0": {}}));
        bundle
            .create()
            .refused(1, &["config.json: linux.netDevices.none0: the host has no such network device"]);
        bundle.assert_nothing_left("a refused create");
    });
}

#[test]
fn devices_need_a_network_namespace_that_is_not_the_hosts() {
    let mut bundle = bundle!();
    bundle.set("/linux/netDevices", json!({"ct0": {}}));
    bundle.add_namespace(json!({"type": "network", "path": "/proc/self/ns/net"}));
    bundle.create().refused(1, &["linux.netDevices: the devices are the host's"]);
    bundle.drop_namespace("network");
    bundle.create().refused(1, &["linux.netDevices: need a namespace of type network"]);
}
