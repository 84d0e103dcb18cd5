//! Devices: the default ones, the configured ones, the links, and what may be opened.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use crate::bundle::{Bundle, bundle, skip};
use crate::namespaces::map_users;

const DEFAULTS: [(&str, u64, u64); 6] =
    [("null", 1, 3), ("zero", 1, 5), ("full", 1, 7), ("random", 1, 8), ("urandom", 1, 9), ("tty", 5, 0)];

/// What the witness finds at each path.
#[track_caller]
fn stats(bundle: &mut Bundle, paths: &[&str]) -> Vec<Value> {
    let line: Vec<String> = paths.iter().map(|path| format!("/witness stat {path}")).collect();
    bundle.shell(&line.join("; "));
    let output = bundle.run().ok().stdout();
    output.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn the_default_devices_are_there_and_open_to_all() {
    let mut bundle = bundle!();
    let paths = DEFAULTS.map(|(name, ..)| format!("/dev/{name}"));
    let found = stats(&mut bundle, &paths.each_ref().map(String::as_str));
    for ((name, major, minor), stat) in DEFAULTS.iter().zip(&found) {
        assert_eq!(stat["type"], "char", "{name}");
        assert_eq!((&stat["major"], &stat["minor"]), (&json!(major), &json!(minor)), "{name}");
        assert_eq!(
            (&stat["mode"], &stat["uid"], &stat["gid"]),
            (&json!("0666"), &json!(0), &json!(0)),
            "{name}"
        );
    }
}

#[test]
fn the_default_devices_work_in_a_user_namespace() {
    let mut bundle = bundle!();
    map_users(&mut bundle);
    bundle.shell(
        "echo lost > /dev/null && dd if=/dev/zero bs=3 count=1 2>/dev/null | wc -c; /witness stat /dev/null",
    );
    let output = bundle.run().ok().stdout();
    let lines: Vec<&str> = output.lines().collect();
    assert_eq!(lines[0].trim(), "3");
    let stat: Value = serde_json::from_str(lines[1]).unwrap();
    assert_eq!((&stat["type"], &stat["major"], &stat["minor"]), (&json!("char"), &json!(1), &json!(3)));
}

#[test]
fn the_default_links_are_there() {
    let links = [
        ("/dev/fd", "/proc/self/fd"),
        ("/dev/stdin", "/proc/self/fd/0"),
        ("/dev/stdout", "/proc/self/fd/1"),
        ("/dev/stderr", "/proc/self/fd/2"),
        ("/dev/ptmx", "pts/ptmx"),
    ];
    let mut bundle = bundle!();
    let found = stats(&mut bundle, &links.map(|(path, _)| path));
    for ((path, target), stat) in links.iter().zip(&found) {
        assert_eq!(stat["link"], *target, "{path}");
    }
}

#[test]
fn a_new_pseudo_terminal_can_be_opened_in_the_container() {
    let mut bundle = bundle!();
    bundle.shell("/witness open /dev/ptmx; /witness open /dev/pts/ptmx");
    assert_eq!(bundle.run().ok().stdout(), "ok\nok\n");
}

#[test]
fn configured_devices_are_made_with_mode_and_owner() {
    let mut bundle = bundle!();
    bundle.set("/linux/devices", json!([
        {"path": "/dev/char", "type": "c", "major": 10, "minor": 229, "fileMode": 0o640, "uid": 7, "gid": 8},
        {"path": "/dev/block", "type": "b", "major": 7, "minor": 0, "fileMode": 0o600},
        {"path": "/dev/unbuffered", "type": "u", "major": 1, "minor": 3},
        {"path": "/dev/pipe", "type": "p", "fileMode": 0o622},
        {"path": "/dev/deep/er/null", "type": "c", "major": 1, "minor": 3},
    ]));
    let paths = ["/dev/char", "/dev/block", "/dev/unbuffered", "/dev/pipe", "/dev/deep/er/null"];
    let found = stats(&mut bundle, &paths);
    let wanted = [
        json!({"type": "char", "major": 10, "minor": 229, "mode": "0640", "uid": 7, "gid": 8}),
        json!({"type": "block", "major": 7, "minor": 0, "mode": "0600", "uid": 0, "gid": 0}),
        json!({"type": "char", "major": 1, "minor": 3}),
        json!({"type": "fifo", "mode": "0622"}),
        json!({"type": "char", "major": 1, "minor": 3}),
    ];
    for ((path, stat), wanted) in paths.iter().zip(&found).zip(&wanted) {
        for (member, value) in wanted.as_object().unwrap() {
            assert_eq!(&stat[member], value, "{path}: {member}");
        }
    }
}

#[test]
fn a_configured_device_that_is_there_already_is_left_alone() {
    let mut bundle = bundle!();
    bundle.set(
        "/linux/devices",
        json!([{"path": "/dev/null", "type": "c", "major": 1, "minor": 3, "fileMode": 0o666}]),
    );
    let found = stats(&mut bundle, &["/dev/null"]);
    assert_eq!((&found[0]["major"], &found[0]["minor"]), (&json!(1), &json!(3)));
}

#[test]
fn a_configured_device_is_bound_from_the_host_in_a_user_namespace() {
    let mut bundle = bundle!();
    if !Path::new("/dev/kmsg").exists() {
        skip!("the host has no /dev/kmsg");
    }
    map_users(&mut bundle);
    bundle.set("/linux/devices", json!([{"path": "/dev/kmsg", "type": "c", "major": 1, "minor": 11}]));
    let found = stats(&mut bundle, &["/dev/kmsg"]);
    let seen = (&found[0]["type"], &found[0]["major"], &found[0]["minor"]);
    assert_eq!(seen, (&json!("char"), &json!(1), &json!(11)));
}

#[test]
fn umask_does_not_narrow_the_modes_of_devices() {
    let mut bundle = bundle!();
    bundle.set("/process/user/umask", json!(0o077));
    bundle.set(
        "/linux/devices",
        json!([{"path": "/dev/wide", "type": "c", "major": 1, "minor": 3, "fileMode": 0o666}]),
    );
    let found = stats(&mut bundle, &["/dev/wide", "/dev/null"]);
    assert_eq!((&found[0]["mode"], &found[1]["mode"]), (&json!("0666"), &json!("0666")));
}

/// A container that may make any device, so that only its cgroup decides what opens.
fn maker(bundle: &mut Bundle, rules: Value) {
    bundle.privileged().set("/linux/resources/devices", rules);
}

#[test]
fn without_rules_only_the_default_devices_may_be_opened() {
    // GHSA-g54h-m393-cpwq: a list of devices is what is allowed, never only what is denied.
    let mut bundle = bundle!();
    maker(&mut bundle, json!([]));
    bundle.shell(
        "/witness mknod /dev/kmsg-copy c 1 11; /witness open /dev/kmsg-copy; /witness open /dev/null; \
         /witness mknod /dev/null-copy c 1 3; /witness open /dev/null-copy; /witness open /dev/urandom",
    );
    assert_eq!(bundle.run().ok().stdout(), "ok\nEPERM\nok\nok\nok\nok\n");
}

#[test]
fn device_rules_apply_in_their_order() {
    let mut bundle = bundle!();
    maker(
        &mut bundle,
        json!([
            {"allow": false, "access": "rwm"},
            {"allow": true, "type": "c", "major": 1, "minor": 11, "access": "r"},
            {"allow": true, "type": "c", "major": 10, "access": "rwm"},
            {"allow": false, "type": "c", "major": 10, "access": "w"},
        ]),
    );
    bundle.shell(
        "/witness mknod /dev/a c 1 11; /witness open /dev/a; /witness write /dev/a x; \
         /witness mknod /dev/b b 7 3; /witness open /dev/b",
    );
    // A node may always be made; what it opens is another question, and 7:3 was never allowed.
    assert_eq!(bundle.run().ok().stdout(), "ok\nok\nEPERM\nok\nEPERM\n");
}

#[test]
fn what_is_denied_widely_is_denied() {
    let mut bundle = bundle!();
    maker(
        &mut bundle,
        json!([
            {"allow": true, "type": "c", "major": 1, "minor": 11, "access": "rw"},
            {"allow": false, "type": "c", "access": "w"},
        ]),
    );
    bundle.shell("/witness mknod /dev/a c 1 11; /witness open /dev/a; /witness write /dev/a x");
    assert_eq!(bundle.run().ok().stdout(), "ok\nok\nEPERM\n");
}

#[test]
fn an_update_loses_no_rule() {
    let mut bundle = bundle!();
    maker(&mut bundle, json!([{"allow": true, "type": "c", "major": 1, "minor": 11, "access": "r"}]));
    bundle.running();
    bundle.exec(&["/witness", "mknod", "/dev/a", "c", "1", "11"]).ok();
    let path = bundle.scratch().join("resources.json");
    fs::write(
        &path,
        json!({"devices": [{"allow": true, "access": "rwm"}], "pids": {"limit": 77}}).to_string(),
    )
    .unwrap();
    bundle.call(["update", "--resources"]).arg(path).arg(&bundle.id).output().ok();
    for (access, outcome) in [(&["open", "/dev/a"][..], "ok\n"), (&["write", "/dev/a", "x"], "EPERM\n")] {
        let words: Vec<&str> = ["/witness"].iter().chain(access).copied().collect();
        assert_eq!(bundle.exec(&words).ok().stdout(), outcome, "{access:?}");
    }
}

#[test]
fn a_rule_for_all_opens_all() {
    let mut bundle = bundle!();
    maker(&mut bundle, json!([{"allow": true, "access": "rwm"}]));
    bundle.shell("/witness mknod /dev/a c 1 11; /witness open /dev/a");
    assert_eq!(bundle.run().ok().stdout(), "ok\nok\n");
}

#[test]
fn a_host_that_hides_a_device_is_not_asked_for_it() {
    let mut bundle = bundle!();
    // What the image holds below /dev is covered, never removed.
    fs::write(bundle.rootfs().join("dev/from-the-image"), "kept").unwrap();
    bundle.args(&["/witness", "list", "/dev"]);
    let names = bundle.run().ok().json();
    assert!(!names.as_array().unwrap().contains(&json!("from-the-image")), "{names}");
    assert_eq!(fs::read_to_string(bundle.rootfs().join("dev/from-the-image")).unwrap(), "kept");
}
