//! Pods: containers that live in the namespaces of a first one, each with a root, a group and an end of its own.

use std::fs;

use serde_json::json;

use crate::bundle::{Bundle, bundle, skip, wait_for};
use crate::call::eventually;

const SHARED: &[(&str, &str)] = &[("network", "net"), ("ipc", "ipc"), ("uts", "uts"), ("pid", "pid")];

/// One more container in the namespaces of the first.
fn member(first: &Bundle) -> Bundle {
    let mut member = Bundle::new();
    for (kind, file) in SHARED {
        member.add_namespace(json!({"type": kind, "path": format!("/proc/{}/ns/{file}", first.pid())}));
    }
    // The name is the first one's to give.
    member.unset("", "hostname");
    member
}

#[test]
fn members_share_what_the_first_has_and_have_root_and_group_of_their_own() {
    let mut first = bundle!();
    first.set("/hostname", json!("pod"));
    first.running();
    let mut members = [member(&first), member(&first)];
    for (number, member) in members.iter_mut().enumerate() {
        fs::write(member.rootfs().join("number"), number.to_string()).unwrap();
        member.running();
        let (pid, of_first) = (member.pid(), first.pid());
        let namespace = |pid: i32, file: &str| fs::read_link(format!("/proc/{pid}/ns/{file}")).unwrap();
        for (_, file) in SHARED {
            assert_eq!(namespace(pid, file), namespace(of_first, file), "{file}");
        }
        for file in ["mnt", "cgroup"] {
            assert_ne!(namespace(pid, file), namespace(of_first, file), "{file}");
        }
        let groups = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
        assert!(groups.lines().all(|line| line.contains(&member.id) || line.ends_with(":/")), "{groups}");
        let line = "hostname; cat /number; [ -e /proc/1/stat ] && echo; ps | grep -c '[s]ignal-wait'";
        let seen = member.exec(&["/bin/sh", "-c", line]).ok().stdout();
        // The first, this one, and those before it.
        assert_eq!(seen, format!("pod\n{number}\n{}\n", number + 2));
    }
}

#[test]
fn members_hear_each_other_on_the_loopback_device() {
    let mut first = bundle!();
    first.running();
    let mut listener = member(&first);
    listener.shell("nc -l -p 4711 -e /bin/echo from the other");
    let mut speaker = member(&first);
    speaker.shell("until nc 127.0.0.1 4711 < /dev/null; do sleep 0.02; done 2>/dev/null");
    for bundle in [&listener, &speaker] {
        std::os::unix::fs::symlink("busybox", bundle.rootfs().join("bin/nc")).unwrap();
    }
    listener.create().ok();
    listener.start().ok();
    assert_eq!(speaker.run().ok().stdout(), "from the other\n");
    assert_eq!(listener.wait(), 0);
}

#[test]
fn the_end_of_a_member_is_not_that_of_the_others() {
    let mut first = bundle!();
    // The witness would take the end of an orphan for the signal that it waits for.
    first.args(&["/bin/sleep", "60"]);
    first.create().ok();
    first.start().ok();
    let (mut one, mut other) = (member(&first), member(&first));
    one.shell("sleep 60 & sleep 60 & echo forked; wait");
    let output = one.create().ok();
    one.start().ok();
    eventually("it has children", || output.stdout().contains("forked").then_some(()));
    other.running();
    one.kill("KILL").ok();
    assert_eq!(one.wait(), 128 + 9);
    // Its children go to the first one's init, which does not wait for them; they are dead nevertheless.
    eventually("its children are gone", || one.traces().processes.is_empty().then_some(()));
    one.verb("delete", &["--force"]).ok();
    one.assert_nothing_left("a member's end");
    first.assert_status("running");
    other.assert_status("running");
    assert_eq!(other.exec(&["/bin/echo", "here"]).ok().stdout(), "here\n");
}

#[test]
fn the_end_of_the_first_is_that_of_all_in_its_pid_namespace() {
    let mut first = bundle!();
    first.running();
    let mut one = member(&first);
    one.running();
    let guest = one.exec_detached(&[], &["/bin/sleep", "60"]);
    first.kill("KILL").ok();
    assert_eq!(one.wait(), 128 + 9);
    assert_eq!(wait_for(guest), 128 + 9);
    assert_eq!(first.wait(), 128 + 9);
    one.assert_status("stopped");
    one.delete().ok();
    one.assert_nothing_left("delete of a member whose pod is gone");
    first.delete().ok();
}
