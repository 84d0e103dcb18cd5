//! Bad input: what is wrong is named by its JSON path in one sentence, the exit status is 1, and nothing is left.
//! Tables of bundles; each one is tried by `create`, and the machine compared before and after.

use std::fs;
use std::os::unix::fs::symlink;

use serde_json::{Value, json};

use crate::bundle::{Bundle, bundle, set, skip};
use crate::call::{Call, affordable};

/// A change of the config at a pointer, and the phrase that the error must have; by default the path itself.
type Row = (&'static str, Value, &'static str);

fn row(pointer: &'static str, value: Value) -> Row {
    (pointer, value, "")
}

/// The rows are tried, each in a bundle of its own; all that went wrong is reported together.
#[track_caller]
fn refuse(rows: Vec<Row>) {
    let mut wrong = Vec::new();
    for (pointer, value, phrase) in affordable(rows, 8) {
        let mut bundle = bundle!();
        bundle.set(pointer, value.clone());
        let phrase =
            if phrase.is_empty() { format!("config.json: {}", path(pointer)) } else { phrase.to_string() };
        let shown: String = value.to_string().chars().take(60).collect();
        wrong.extend(refused(&bundle, &phrase).map(|why| format!("{pointer} = {shown}: {why}")));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// `/linux/devices/0/path` as the errors write it: `linux.devices[0].path`.
fn path(pointer: &str) -> String {
    pointer.split('/').skip(1).fold(String::new(), |path, key| match key.parse::<usize>() {
        Ok(index) => format!("{path}[{index}]"),
        Err(_) if path.is_empty() => key.to_string(),
        Err(_) => format!("{path}.{key}"),
    })
}

/// Tries to create the bundle. None if it was refused as it should be.
fn refused(bundle: &Bundle, phrase: &str) -> Option<String> {
    bundle.write_config();
    refused_as_written(bundle, phrase)
}

fn refused_as_written(bundle: &Bundle, phrase: &str) -> Option<String> {
    let before = bundle.traces();
    let output = bundle.call(["create", "--bundle"]).arg(bundle.path()).arg(&bundle.id).output();
    let after = bundle.traces();
    let line = output.stderr.trim_end();
    let shown: String = line.chars().take(300).collect();
    if output.code() != 1 {
        return Some(format!("exit status {}, stderr: {shown}", output.code()));
    }
    if line.lines().count() != 1 || !output.stdout().is_empty() {
        return Some(format!("not one line on stderr: {shown}"));
    }
    if line.len() > 2000 {
        return Some(format!("an error of {} characters: {shown}", line.len()));
    }
    if !line.contains(phrase) {
        return Some(format!("no {phrase:?} in: {shown}"));
    }
    (before != after).then(|| format!("left something behind: {before:#?}\nbecame {after:#?}"))
}

fn long() -> String {
    "x".repeat(65_536)
}

#[test]
fn a_config_that_is_not_one_is_refused() {
    let texts: [(&[u8], &str); 8] = [
        (b"", "config.json"),
        (b"{\"ociVersion\": ", "line 1"),
        (b"{\n  \"ociVersion\": \"1.0.0\",\n}", "line 3"),
        (b"[]", "config.json"),
        (b"null", "config.json"),
        (b"{} {}", "config.json"),
        (b"{\"ociVersion\": \"1.0.0\", \"hostname\": \"\xff\"}", "config.json"),
        (b"\0", "config.json"),
    ];
    for (text, phrase) in texts {
        let bundle = bundle!();
        fs::write(bundle.path().join("config.json"), text).unwrap();
        assert_eq!(refused_as_written(&bundle, phrase), None, "{:?}", String::from_utf8_lossy(text));
    }
}

#[test]
fn a_config_that_cannot_be_read_is_refused() {
    let bundle = bundle!();
    assert_eq!(refused_as_written(&bundle, "config.json"), None, "no file");
    fs::create_dir(bundle.path().join("config.json")).unwrap();
    assert_eq!(refused_as_written(&bundle, "config.json"), None, "a directory");
    let output = bundle.call(["create", "--bundle", "/no/such/bundle", &bundle.id]).output();
    output.refused(1, &["/no/such/bundle"]);
}

#[test]
fn deep_nesting_is_refused() {
    let bundle = bundle!();
    let text = format!("{{\"ociVersion\": \"1.0.0\", \"annotations\": {}", "[".repeat(100_000));
    fs::write(bundle.path().join("config.json"), text).unwrap();
    assert_eq!(refused_as_written(&bundle, "config.json"), None);
}

#[test]
fn wrong_types_are_refused() {
    refuse(vec![
        row("/ociVersion", json!(1)),
        row("/root", json!("rootfs")),
        row("/root/path", json!(7)),
        row("/root/readonly", json!("yes")),
        row("/hostname", json!(["web"])),
        row("/process", json!("sh")),
        row("/process/args", json!("sh")),
        row("/process/args/0", json!(1)),
        row("/process/env", json!({"PATH": "/bin"})),
        row("/process/cwd", json!(null)),
        row("/process/terminal", json!("no")),
        row("/process/user/uid", json!("root")),
        row("/process/user/uid", json!(-1)),
        row("/process/user/gid", json!(4_294_967_296_u64)),
        row("/process/user/additionalGids", json!([1.5])),
        row("/process/oomScoreAdj", json!("low")),
        row("/process/rlimits", json!({"type": "RLIMIT_CORE"})),
        row("/process/rlimits/0/soft", json!(-1)),
        row("/mounts", json!({"destination": "/mnt"})),
        row("/mounts/0/destination", json!(1)),
        row("/mounts/0/options", json!("ro,nosuid")),
        row("/hooks", json!([])),
        row("/annotations", json!({"key": 1})),
        row("/linux", json!([])),
        row("/linux/namespaces", json!({"type": "pid"})),
        row("/linux/namespaces/0/type", json!(1)),
        row("/linux/resources/pids/limit", json!("many")),
        row("/linux/resources/memory/limit", json!(1.5)),
        row("/linux/sysctl", json!({"net.ipv4.ip_forward": 1})),
        row("/linux/maskedPaths", json!("/proc/kcore")),
    ]);
}

#[test]
fn unknown_values_of_enumerations_are_refused() {
    refuse(vec![
        row("/linux/namespaces/0/type", json!("future")),
        row("/process/rlimits/0/type", json!("RLIMIT_FOO")),
        row("/linux/rootfsPropagation", json!("sideways")),
        row("/process/scheduler", json!({"policy": "SCHED_LUCK"})),
        row("/process/scheduler", json!({"policy": "SCHED_OTHER", "flags": ["SCHED_FLAG_FOO"]})),
        row("/process/ioPriority", json!({"class": "IOPRIO_CLASS_FOO", "priority": 0})),
        row("/linux/memoryPolicy", json!({"mode": "MPOL_FOO", "nodes": "0"})),
        row("/linux/memoryPolicy", json!({"mode": "MPOL_BIND", "nodes": "0", "flags": ["MPOL_F_FOO"]})),
        row("/linux/personality", json!({"domain": "SOLARIS"})),
        row("/linux/devices", json!([{"path": "/dev/x", "type": "x", "major": 1, "minor": 3}])),
        row("/linux/seccomp", json!({"defaultAction": "SCMP_ACT_FOO"})),
        row("/linux/resources/devices/0/access", json!("rwx")),
        row("/linux/resources/devices/0/type", json!("q")),
        row("/linux/timeOffsets", json!({"realtime": {"secs": 1}})),
    ]);
}

#[test]
fn a_version_that_is_not_supported_is_refused() {
    refuse(vec![
        row("/ociVersion", json!("2.0.0")),
        row("/ociVersion", json!("one")),
        row("/ociVersion", json!("")),
        row("/ociVersion", json!("1")),
    ]);
}

#[test]
fn missing_members_are_refused() {
    let table =
        [("", "ociVersion"), ("", "root"), ("/root", "path"), ("/process", "cwd"), ("/process", "args")];
    for (pointer, member) in table {
        let mut bundle = bundle!();
        bundle.unset(pointer, member);
        assert_eq!(refused(&bundle, member), None, "{pointer}/{member} missing");
    }
}

#[test]
fn a_root_that_is_no_directory_is_refused() {
    refuse(vec![
        row("/root/path", json!("missing")),
        row("/root/path", json!("")),
        row("/root/path", json!("/no/such/root")),
        row("/root/path", json!("config.json")),
        row("/root/path", json!("rootfs\0")),
        row("/root/path", json!(long())),
    ]);
    let mut bundle = bundle!();
    symlink("rootfs", bundle.path().join("link")).unwrap();
    bundle.set("/root/path", json!("link"));
    assert_eq!(refused(&bundle, "config.json: root.path"), None, "a root that is a symlink");
}

#[test]
fn a_process_that_cannot_be_is_refused() {
    refuse(vec![
        row("/process/args", json!([])),
        row("/process/cwd", json!("relative/path")),
        row("/process/cwd", json!("")),
        row("/process/cwd", json!("/a\0b")),
        row("/process/cwd", json!(format!("/{}", long()))),
        row("/process/args/0", json!("/bin/true\0")),
        row("/process/env/0", json!("A=b\0c")),
        row("/process/oomScoreAdj", json!(1001)),
        row("/process/oomScoreAdj", json!(-1001)),
        row("/process/user/uid", json!(4_294_967_295_u64)),
        row("/process/user/gid", json!(4_294_967_295_u64)),
        row("/process/user/additionalGids", json!([4_294_967_295_u64])),
        row("/process/rlimits/1", json!({"type": "RLIMIT_NOFILE", "soft": 1, "hard": 2})),
        row("/process/rlimits/0", json!({"type": "RLIMIT_NOFILE", "soft": 2, "hard": 1})),
    ]);
}

#[test]
fn scheduling_that_cannot_be_is_refused() {
    refuse(vec![
        row("/process/scheduler", json!({"policy": "SCHED_OTHER", "nice": 20})),
        row("/process/scheduler", json!({"policy": "SCHED_OTHER", "nice": -21})),
        row("/process/scheduler", json!({"policy": "SCHED_FIFO", "priority": 1, "nice": 3})),
        row("/process/scheduler", json!({"policy": "SCHED_BATCH", "priority": 1})),
        row("/process/scheduler", json!({"policy": "SCHED_OTHER", "runtime": 1000})),
        row("/process/ioPriority", json!({"class": "IOPRIO_CLASS_BE", "priority": 8})),
        row("/process/ioPriority", json!({"class": "IOPRIO_CLASS_BE", "priority": -1})),
        row("/linux/memoryPolicy", json!({"mode": "MPOL_BIND", "nodes": ""})),
        row("/linux/memoryPolicy", json!({"mode": "MPOL_BIND", "nodes": "0-x"})),
        row("/linux/memoryPolicy", json!({"mode": "MPOL_DEFAULT", "nodes": "0"})),
        row("/linux/personality", json!({"domain": "LINUX", "flags": ["ADDR_NO_RANDOMIZE"]})),
    ]);
}

#[test]
fn namespaces_that_contradict_are_refused() {
    let mapping = json!([{"containerID": 0, "hostID": 100_000, "size": 1}]);
    let at = |path: &str| json!({"type": "network", "path": path});
    refuse(vec![
        ("/linux/namespaces/6", json!({"type": "pid"}), "config.json: linux.namespaces"),
        ("/linux/namespaces/1", at("/proc/self/ns/ipc"), "config.json: linux.namespaces"),
        ("/linux/namespaces/1", at("/etc/passwd"), "config.json: linux.namespaces"),
        ("/linux/namespaces/1", at("/no/such/namespace"), "config.json: linux.namespaces"),
        ("/linux/namespaces/1", at("proc/self/ns/net"), "config.json: linux.namespaces"),
        ("/linux/namespaces/1", at(&long()), "config.json: linux.namespaces"),
        ("/linux/namespaces/1", at("/proc/self/ns/net\0"), "config.json: linux.namespaces"),
        row("/linux/uidMappings", mapping.clone()),
        row("/linux/gidMappings", mapping),
        ("/linux/namespaces/6", json!({"type": "user"}), "config.json: linux.uidMappings"),
        row("/linux/timeOffsets", json!({"monotonic": {"secs": 1}})),
    ]);
}

#[test]
fn mappings_that_cannot_be_are_refused() {
    let table = [
        json!([{"containerID": 0, "hostID": 100_000, "size": 0}]),
        json!([{"containerID": 0, "hostID": 100_000, "size": -1}]),
        json!([{"containerID": 0, "hostID": 4_294_967_295_u64, "size": 2}]),
        json!([{"containerID": 0, "hostID": 100_000, "size": 10}, {"containerID": 5, "hostID": 200_000, "size": 10}]),
    ];
    for mappings in table {
        let mut bundle = bundle!();
        bundle.add_namespace(json!({"type": "user"}));
        bundle.set("/linux/uidMappings", mappings.clone());
        bundle.set("/linux/gidMappings", json!([{"containerID": 0, "hostID": 100_000, "size": 1}]));
        assert_eq!(refused(&bundle, "uidMappings"), None, "{mappings}");
    }
}

#[test]
fn time_offsets_that_cannot_be_are_refused() {
    for offsets in [json!({"boottime": {"nanosecs": 1_000_000_000}}), json!({"realtime": {"secs": 1}})] {
        let mut bundle = bundle!();
        bundle.add_namespace(json!({"type": "time"})).set("/linux/timeOffsets", offsets.clone());
        assert_eq!(refused(&bundle, "config.json: linux.timeOffsets"), None, "{offsets}");
    }
    let mut bundle = bundle!();
    bundle.add_namespace(json!({"type": "time", "path": "/proc/self/ns/time"}));
    bundle.set("/linux/timeOffsets", json!({"boottime": {"secs": 1}}));
    assert_eq!(refused(&bundle, "config.json: linux.timeOffsets"), None, "offsets of a joined namespace");
}

#[test]
fn names_that_no_namespace_holds_are_refused() {
    for member in ["hostname", "domainname"] {
        let mut bundle = bundle!();
        bundle.drop_namespace("uts").unset("", "hostname").set(&format!("/{member}"), json!("web"));
        assert_eq!(refused(&bundle, &format!("config.json: {member}")), None, "{member} without uts");
    }
    refuse(vec![
        row("/hostname", json!(long())),
        row("/hostname", json!("a\0b")),
        row("/domainname", json!("x".repeat(65))),
    ]);
}

#[test]
fn mounts_that_cannot_be_are_refused() {
    let mount = |change: &[(&str, Value)]| {
        let mut mount = json!({"destination": "/tmp", "source": "/etc", "options": ["bind"]});
        for (pointer, value) in change {
            set(&mut mount, pointer, value.clone());
        }
        mount
    };
    let mapping = json!([{"containerID": 0, "hostID": 1, "size": 1}]);
    let rows = [
        mount(&[("/destination", json!(""))]),
        mount(&[("/destination", json!("/a\0b"))]),
        mount(&[("/destination", json!(format!("/{}", long())))]),
        mount(&[("/source", json!("/no/such/source"))]),
        mount(&[("/source", json!("/etc\0"))]),
        mount(&[("/options", json!(["bind", "no-such-flag"]))]),
        mount(&[("/options", json!(["bind", "idmap"]))]),
        mount(&[("/uidMappings", mapping.clone())]),
        mount(&[
            ("/type", json!("tmpfs")),
            ("/options", json!(["idmap"])),
            ("/uidMappings", mapping.clone()),
            ("/gidMappings", mapping),
        ]),
    ];
    let rows = rows.into_iter().map(|mount| ("/mounts/7", mount, "config.json: mounts[7]"));
    refuse(rows.collect());
}

#[test]
fn mounts_that_the_kernel_refuses_are_named_by_their_place() {
    let table = [
        json!({"destination": "/tmp", "type": "no-such-fs", "source": "none"}),
        json!({"destination": "/tmp", "type": "tmpfs", "source": "none", "options": ["no-such-flag"]}),
        json!({"destination": "/tmp", "type": "overlay", "source": "none", "options": ["lowerdir=/no/such"]}),
        json!({"destination": "/etc/passwd/below", "type": "tmpfs", "source": "none"}),
    ];
    for mount in table {
        let mut bundle = bundle!();
        // The image has what the mounts before it need, so nothing is made in it.
        let [kind, target] =
            ["type", "destination"].map(|member| mount[member].as_str().unwrap().to_string());
        bundle.set("/mounts", json!([mount]));
        let phrase = format!("config.json: mounts[0]: mount {kind} on {target}: ");
        assert_eq!(refused(&bundle, &phrase), None);
    }
}

#[test]
fn devices_that_cannot_be_are_refused() {
    let device = |member: &str, value: Value| {
        let mut device = json!({"path": "/dev/x", "type": "c", "major": 1, "minor": 3});
        device[member] = value;
        json!([device])
    };
    let without = |member: &str| {
        let mut device = device("path", json!("/dev/x"));
        device[0].as_object_mut().unwrap().remove(member);
        device
    };
    let place = "config.json: linux.devices[0]";
    refuse(vec![
        ("/linux/devices", without("major"), place),
        ("/linux/devices", without("minor"), place),
        ("/linux/devices", without("type"), place),
        ("/linux/devices", device("path", json!("dev/x")), place),
        ("/linux/devices", device("path", json!("")), place),
        ("/linux/devices", device("path", json!("/dev/x\0")), place),
        ("/linux/devices", device("fileMode", json!("rw")), place),
        ("/linux/resources/devices/0/major", json!(-2), "config.json: linux.resources.devices[0]"),
    ]);
}

#[test]
fn a_device_that_exists_as_something_else_is_refused() {
    for (path, kind) in [("/etc/passwd", "a file"), ("/tmp", "a directory"), ("/bin/sh", "a link")] {
        let mut bundle = bundle!();
        bundle.set("/mounts", json!([]));
        bundle.set("/linux/devices", json!([{"path": path, "type": "c", "major": 1, "minor": 3}]));
        bundle.write_config();
        let output = bundle.create();
        assert_eq!(output.code(), 1, "{kind}: {output}");
        output.refused(1, &["config.json: linux.devices[0]: ", path]);
        bundle.assert_nothing_left(kind);
        assert_eq!(fs::read_link(bundle.rootfs().join("bin/sh")).unwrap().to_str(), Some("busybox"));
    }
}

#[test]
fn limits_that_cannot_be_are_refused() {
    refuse(vec![
        row("/linux/resources/pids/limit", json!(-2)),
        row("/linux/resources/memory/limit", json!(-2)),
        ("/linux/resources/memory", json!({"swap": 1_048_576}), "config.json: linux.resources.memory"),
        (
            "/linux/resources/memory",
            json!({"limit": 2_097_152, "swap": 1_048_576}),
            "config.json: linux.resources.memory",
        ),
        ("/linux/resources/cpu", json!({"quota": 1000, "burst": 2000}), "config.json: linux.resources.cpu"),
        row("/linux/resources/hugepageLimits", json!([{"pageSize": "2MB"}])),
        row("/linux/resources/hugepageLimits", json!([{"limit": 4096}])),
        row("/linux/resources/blockIO/weightDevice", json!([{"major": 8, "weight": 100}])),
        row("/linux/resources/blockIO/throttleReadBpsDevice", json!([{"major": 8, "minor": 0}])),
        row("/linux/resources/blockIO/throttleWriteIOPSDevice", json!([{"minor": 0, "rate": 5}])),
        row("/linux/resources/network/priorities", json!([{"name": "lo"}])),
        row("/linux/resources/unified", json!({"hugetlb.2MB.max": "\n"})),
        row("/linux/resources/devices/0", json!({"allow": true, "type": "c", "major": 1, "minor": 11})),
        row("/linux/resources/devices/0", json!({"allow": true, "access": "r"})),
        // What only the kernel can judge names the member and the file.
        ("/linux/resources/cpu/cpus", json!("0-x"), "linux.resources.cpu.cpus"),
        row("/linux/resources/cpu/mems", json!("a\0")),
        row("/linux/resources/cpu/shares", json!(-1)),
        row("/linux/cgroupsPath", json!("/../outside")),
        row("/linux/cgroupsPath", json!("/a/../../outside")),
        row("/linux/cgroupsPath", json!(format!("/{}", long()))),
        row("/linux/cgroupsPath", json!("/a\0b")),
        row("/linux/cgroupsPath", json!("/a\nb")),
        row("/linux/cgroupsPath", json!("/a".repeat(2100))),
    ]);
}

#[test]
fn paths_to_hide_must_be_absolute() {
    refuse(vec![
        row("/linux/maskedPaths", json!(["proc/kcore"])),
        row("/linux/readonlyPaths", json!(["proc/sys"])),
        row("/linux/maskedPaths", json!([""])),
        row("/linux/readonlyPaths", json!(["/proc\0/sys"])),
    ]);
}

#[test]
fn sysctls_of_the_host_are_refused() {
    let keys = [
        "kernel.core_pattern",
        "kernel/core_pattern",
        "kernel.hostname",
        "vm.swappiness",
        "fs.file-max",
        "net/../kernel/core_pattern",
        "net.ipv4.../../../kernel/core_pattern",
        "",
        "net.\0",
        "user.max_user_namespaces",
    ];
    refuse(keys.map(|key| ("/linux/sysctl", json!({key: "1"}), "config.json: linux.sysctl")).into());
    refuse(vec![("/linux/sysctl", json!({long(): "1"}), "config.json: linux.sysctl")]);
}

#[test]
fn a_configuration_that_does_not_end_is_refused() {
    let bundle = bundle!();
    // Whoever makes the bundle may put anything there.
    symlink("/dev/zero", bundle.path().join("endless.json")).unwrap();
    let call =
        bundle.call(["create", "--config", "endless.json", "--bundle"]).arg(bundle.path()).arg(&bundle.id);
    call.output().refused(1, &["endless.json", "is longer than 64 MiB"]);
    bundle.assert_nothing_left("a configuration that does not end");
}

#[test]
fn the_root_directory_is_no_state_root_however_it_is_spelt() {
    let bundle = bundle!();
    for root in ["/", "//", "/.", "/usr/.."] {
        let list = Call::new(&bundle.runtime, &bundle.scratch()).args(["--root", root, "list"]);
        list.output().refused(1, &["--root must not be the root directory"]);
    }
}

#[test]
fn sysctls_of_namespaces_that_are_not_new_are_refused() {
    for (kind, key) in
        [("network", "net.ipv4.ip_forward"), ("ipc", "kernel.shmmax"), ("ipc", "fs.mqueue.msg_max")]
    {
        let mut bundle = bundle!();
        bundle.drop_namespace(kind).set("/linux/sysctl", json!({key: "1"}));
        assert_eq!(refused(&bundle, "config.json: linux.sysctl"), None, "{key} without {kind}");
    }
    for (kind, file, key) in [
        ("network", "net", "net.ipv4.ip_forward"),
        ("ipc", "ipc", "kernel.shmmax"),
        ("uts", "uts", "kernel.domainname"),
    ] {
        let mut bundle = bundle!();
        bundle.drop_namespace(kind).unset("", "hostname").set("/linux/sysctl", json!({key: "1"}));
        let hosts = json!({"type": kind, "path": format!("/proc/self/ns/{file}")});
        bundle.config["linux"]["namespaces"].as_array_mut().unwrap().push(hosts);
        let place = format!("config.json: linux.sysctl: {key} would change the host, whose {kind} namespace");
        assert_eq!(refused(&bundle, &place), None, "{key} in the host's {kind}");
    }
    let mut bundle = bundle!();
    bundle.set("/domainname", json!("one")).set("/linux/sysctl", json!({"kernel.domainname": "two"}));
    assert_eq!(refused(&bundle, "config.json: linux.sysctl"), None, "two domain names");
}

#[test]
fn hooks_that_cannot_run_are_refused() {
    let rows = [
        json!([{"path": "relative"}]),
        json!([{"path": ""}]),
        json!([{"path": "/bin/true\0"}]),
        json!([{"path": "/bin/true", "timeout": 0}]),
        json!([{"path": "/bin/true", "timeout": -1}]),
        json!([{"path": "/bin/true", "args": "true"}]),
        json!([{"args": ["true"]}]),
        json!([{"path": "/bin/true", "env": ["A=\0"]}]),
    ];
    let rows =
        rows.into_iter().map(|hooks| ("/hooks/createRuntime", hooks, "config.json: hooks.createRuntime"));
    refuse(rows.collect());
}

#[test]
fn hooks_that_run_only_later_are_checked_before_anything_is_made() {
    for kind in ["startContainer", "poststart", "poststop"] {
        let mut bundle = bundle!();
        bundle.set(&format!("/hooks/{kind}"), json!([{"path": "relative"}]));
        assert_eq!(refused(&bundle, &format!("config.json: hooks.{kind}")), None, "{kind}");
    }
}

#[test]
fn annotations_have_names() {
    refuse(vec![row("/annotations", json!({"": "value"}))]);
}

#[test]
fn bad_ids_are_refused() {
    let bundle = bundle!();
    bundle.write_config();
    let before = bundle.traces();
    let long = long();
    for id in ["a/b", "../a", "..", ".", "/", "", "a b", "a\nb", "a\u{7f}", "é", "a:b", long.as_str()] {
        let output = bundle.call(["create", "--bundle"]).arg(bundle.path()).arg(id).output();
        let shown: String = id.chars().take(20).collect();
        assert_eq!(output.code(), 1, "{shown:?}: {}", output.stderr);
        assert_eq!(output.stderr.lines().count(), 1, "{shown:?}: {}", output.stderr);
        before.assert_same(&bundle.traces(), &shown);
    }
    for verb in ["start", "state", "delete", "kill", "ps"] {
        for id in ["../a", "..", "a/b"] {
            let output = bundle.call([verb, id]).output();
            assert_eq!(output.code(), 1, "{verb} {id}: {}", output.stderr);
        }
    }
    for id in ["../a", ".."] {
        assert_eq!(bundle.call(["delete", "--force", id]).output().code(), 1, "delete --force {id}");
    }
}

#[test]
fn an_unknown_capability_is_only_a_warning() {
    let mut bundle = bundle!();
    bundle.set("/process/capabilities/bounding", json!(["CAP_KILL", "CAP_TIME_TRAVEL"]));
    bundle.args(&["/witness", "report"]);
    let log = bundle.scratch().join("log");
    bundle.write_config();
    let call = bundle.call(["--log"]).arg(&log).args(["run", "--bundle"]).arg(bundle.path()).arg(&bundle.id);
    let output = call.output().ok();
    assert_eq!(output.stderr, "", "warnings are for the log");
    assert_eq!(output.json()["capabilities"]["bounding"], json!(["CAP_KILL"]));
}

#[test]
fn members_that_nobody_knows_are_ignored() {
    let mut bundle = bundle!();
    for pointer in ["/future", "/process/future", "/root/future", "/linux/future", "/mounts/0/future"] {
        bundle.set(pointer, json!({"any": ["thing", 1, null]}));
    }
    bundle.args(&["/bin/echo", "ran"]);
    assert_eq!(bundle.run().ok().stdout(), "ran\n");
}

#[test]
fn what_only_the_kernel_can_refuse_is_named_by_its_place() {
    let all_calls = json!({"defaultAction": "SCMP_ACT_KILL_PROCESS", "architectures": ["SCMP_ARCH_NATIVE"]});
    let file = json!([{"path": "/bin/busybox/x", "type": "c", "major": 1, "minor": 3}]);
    refuse(vec![
        row("/linux/sysctl", json!({"net.ipv4.no_such_parameter": "1"})),
        row("/linux/sysctl", json!({"net.ipv4.ip_forward": "many"})),
        row("/process/cwd", json!("/bin/busybox")),
        ("/linux/devices", file, "config.json: linux.devices[0]: "),
        row("/linux/seccomp", all_calls),
    ]);
}
