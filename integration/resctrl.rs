//! Resource control groups (`linux.intelRdt`), where the processor and the kernel have them.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use serde_json::{Value, json};

use crate::bundle::{Bundle, bundle, skip};
use crate::mounts::Mounted;

/// Where resctrl is mounted, and the mount if it had to be made for this; or the reason why it cannot be.
fn resctrl(bundle: &Bundle) -> Result<(PathBuf, Option<Mounted>), String> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let mounted = mounts.lines().find(|line| line.contains(" - resctrl "));
    if let Some(line) = mounted {
        return Ok((line.split(' ').nth(4).unwrap().into(), None));
    }
    let place = bundle.scratch().join("resctrl");
    fs::create_dir(&place).unwrap();
    let output = Command::new("mount").args(["-t", "resctrl", "resctrl"]).arg(&place).output().unwrap();
    if !output.status.success() {
        let filesystems = fs::read_to_string("/proc/filesystems").unwrap();
        let known = filesystems.lines().any(|line| line.ends_with("\tresctrl"));
        let lacks = if known { "this processor has" } else { "this kernel knows" };
        return Err(format!("{lacks} no resource control groups (resctrl)"));
    }
    Ok((place.clone(), Some(Mounted::adopt(&place))))
}

#[test]
fn a_container_has_a_resource_control_group_until_its_end() {
    let mut bundle = bundle!();
    let (root, _mounted) = match resctrl(&bundle) {
        Ok(found) => found,
        Err(reason) => skip!("{reason}"),
    };
    // Whatever the processor has, a group may have as much as all.
    let whole = fs::read_to_string(root.join("schemata")).unwrap();
    let lines: Vec<&str> = whole.lines().map(str::trim).collect();
    bundle.set("/linux/intelRdt", json!({"schemata": lines, "enableMonitoring": true}));
    bundle.running();
    let group = root.join(&bundle.id);
    let monitor = group.join("mon_groups").join(&bundle.id);
    let member = bundle.exec_detached(&[], &["/bin/sleep", "100"]);
    for directory in [&group, &monitor] {
        let tasks = fs::read_to_string(directory.join("tasks")).unwrap();
        for pid in [bundle.pid(), member] {
            assert!(
                tasks.lines().any(|task| task == pid.to_string()),
                "{pid} is not in {directory:?}: {tasks}"
            );
        }
    }
    bundle.kill("KILL").ok();
    bundle.wait();
    bundle.verb("delete", &["--force"]).ok();
    assert!(!group.exists());
}

/// What remembers a container is made to say that it is in a group, which is a directory that looks like one.
#[test]
fn events_tell_of_the_group() {
    let mut bundle = bundle!();
    let root = bundle.scratch().join("resctrl");
    for (file, text) in [
        ("schemata", "MB:0=100\n"),
        ("web/schemata", "    MB:0=30\n"),
        ("web/mon_data/mon_L3_00/llc_occupancy", "4096\n"),
    ] {
        fs::create_dir_all(root.join(file).parent().unwrap()).unwrap();
        fs::write(root.join(file), text).unwrap();
    }
    bundle.running();
    let record = bundle.state_root().join(&bundle.id).join("state.json");
    let before = fs::read_to_string(&record).unwrap();
    let mut state: Value = serde_json::from_str(&before).unwrap();
    state["resctrl"] = json!({"root": root, "group": root.join("web"), "monitor": null, "remove": true});
    fs::write(&record, state.to_string()).unwrap();
    let told = bundle.verb("events", &["--stats"]).ok().json();
    fs::write(&record, before).unwrap();
    let group = json!({"mem_bw_schema_root": "MB:0=100", "mem_bw_schema": "MB:0=30",
        "cmt_stats": [{"llc_occupancy": 4096}]});
    assert_eq!(told["data"]["intel_rdt"], group);
    assert_eq!(bundle.verb("events", &["--stats"]).ok().json()["data"]["intel_rdt"], json!({}));
}

#[test]
fn a_host_without_resctrl_refuses_a_group() {
    let mut bundle = bundle!();
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    if mounts.lines().any(|line| line.contains(" - resctrl ")) {
        skip!("resctrl is mounted");
    }
    bundle.set("/linux/intelRdt", json!({"closID": "gold", "enableMonitoring": true}));
    bundle.create().refused(1, &["config.json: linux.intelRdt: no resctrl filesystem is mounted"]);
    bundle.assert_nothing_left("a refused create");
}
