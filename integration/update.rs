//! Update: limits that change while a container runs, all that were asked for or none.

use std::fs;
use std::path::PathBuf;

use serde_json::{Value, json};

use crate::bundle::{Bundle, bundle, skip};
use crate::call::eventually;
use crate::cgroups::{hierarchy, on_v2};

/// A file of the container's group; `None` where this machine does not have it.
fn limit(bundle: &Bundle, controller: &str, (v1, v2): (&str, &str)) -> Option<String> {
    let file = if on_v2(controller) { v2 } else { v1 };
    let path = hierarchy(controller)?.join(&bundle.id).join(file);
    fs::read_to_string(path).ok().map(|text| text.trim().to_string())
}

fn shares(bundle: &Bundle) -> String {
    limit(bundle, "cpu", ("cpu.shares", "cpu.weight")).expect("the weight of the group")
}

/// What the runtime remembers of the limits.
fn remembered(bundle: &Bundle) -> Value {
    let text = fs::read(bundle.state_root().join(&bundle.id).join("config.json")).expect("the copy");
    let config: Value = serde_json::from_slice(&text).expect("JSON");
    config["linux"]["resources"].clone()
}

fn resources(bundle: &Bundle, document: &Value) -> PathBuf {
    let path = bundle.scratch().join("resources.json");
    fs::write(&path, document.to_string()).expect("write resources");
    path
}

type Row =
    (&'static [&'static str], &'static str, (&'static str, &'static str), (&'static str, &'static str));

/// Options, a controller, the file on v1 and v2, and what is in it then.
const OPTIONS: &[Row] = &[
    (&["--cpu-share", "512"], "cpu", ("cpu.shares", "cpu.weight"), ("512", "59")),
    (
        &["--cpu-period", "200000", "--cpu-quota", "50000"],
        "cpu",
        ("cpu.cfs_quota_us", "cpu.max"),
        ("50000", "50000 200000"),
    ),
    (&["--cpu-period", "100000"], "cpu", ("cpu.cfs_period_us", "cpu.max"), ("100000", "50000 100000")),
    (&["--cpu-burst", "10000"], "cpu", ("cpu.cfs_burst_us", "cpu.max.burst"), ("10000", "10000")),
    (
        &["--cpu-burst", "0", "--cpu-quota", "-1"],
        "cpu",
        ("cpu.cfs_quota_us", "cpu.max"),
        ("-1", "max 100000"),
    ),
    (&["--cpu-idle", "1"], "cpu", ("cpu.idle", "cpu.idle"), ("1", "1")),
    (&["--cpu-idle", "0"], "cpu", ("cpu.idle", "cpu.idle"), ("0", "0")),
    (&["--cpuset-cpus", "0"], "cpuset", ("cpuset.cpus", "cpuset.cpus"), ("0", "0")),
    (&["--cpuset-mems", "0"], "cpuset", ("cpuset.mems", "cpuset.mems"), ("0", "0")),
    (&["--memory", "64m"], "memory", ("memory.limit_in_bytes", "memory.max"), ("67108864", "67108864")),
    (
        &["--memory-reservation", "33554432"],
        "memory",
        ("memory.soft_limit_in_bytes", "memory.low"),
        ("33554432", "33554432"),
    ),
    (&["--memory", "-1"], "memory", ("memory.limit_in_bytes", "memory.max"), ("9223372036854771712", "max")),
    (&["--pids-limit", "20"], "pids", ("pids.max", "pids.max"), ("20", "20")),
    (&["--pids-limit", "-1"], "pids", ("pids.max", "pids.max"), ("max", "max")),
    (
        &["--memory", "64m", "--memory-swap", "128m"],
        "memory",
        ("memory.memsw.limit_in_bytes", "memory.swap.max"),
        ("134217728", "67108864"),
    ),
    (
        &["--kernel-memory-tcp", "8m"],
        "memory",
        ("memory.kmem.tcp.limit_in_bytes", "no.such"),
        ("8388608", ""),
    ),
    (&["--cpu-rt-period", "500000"], "cpu", ("cpu.rt_period_us", "no.such"), ("500000", "")),
    (&["--blkio-weight", "200"], "blkio", ("blkio.bfq.weight", "io.weight"), ("200", "1920")),
];

#[test]
fn every_option_changes_its_limit() {
    let mut bundle = bundle!();
    bundle.running();
    let mut missing = Vec::new();
    for (options, controller, file, value) in OPTIONS {
        if limit(&bundle, controller, *file).is_none() {
            missing.push(file.0);
            continue;
        }
        bundle.verb("update", options).ok();
        let expected = if on_v2(controller) { value.1 } else { value.0 };
        assert_eq!(limit(&bundle, controller, *file).unwrap(), expected, "{options:?}");
    }
    if !missing.is_empty() {
        skip!("the others hold, but this machine has no {}", missing.join(", "));
    }
}

#[test]
fn limits_on_processes_and_processors_are_felt() {
    let mut bundle = bundle!();
    bundle.running();
    let fork = ["/bin/sh", "-c", "/bin/true; /bin/true"];
    bundle.verb("update", &["--pids-limit", "2"]).ok();
    assert_ne!(bundle.exec(&fork).code(), 0, "a third process");
    bundle.verb("update", &["--pids-limit", "-1", "--cpuset-cpus", "0"]).ok();
    bundle.exec(&fork).ok();
    assert_eq!(bundle.exec(&["/bin/nproc"]).ok().stdout(), "1\n");
}

#[test]
fn memory_and_swap_are_raised_and_lowered_together() {
    let mut bundle = bundle!();
    let file = ("memory.memsw.limit_in_bytes", "memory.swap.max");
    bundle.running();
    if limit(&bundle, "memory", file).is_none() {
        skip!("this machine does not count swap");
    }
    for (memory, both) in [("32m", "64m"), ("128m", "256m"), ("16m", "48m"), ("-1", "-1"), ("32m", "32m")] {
        bundle.verb("update", &["--memory", memory, "--memory-swap", both]).ok();
        let bytes = |text: &str| text.trim_end_matches('m').parse::<i64>().unwrap() << 20;
        let expected = match (both, on_v2("memory")) {
            ("-1", true) => "max".to_string(),
            ("-1", false) => "9223372036854771712".to_string(),
            (both, true) => (bytes(both) - bytes(memory)).to_string(),
            (both, false) => bytes(both).to_string(),
        };
        assert_eq!(limit(&bundle, "memory", file).unwrap(), expected, "{memory} and {both}");
    }
    bundle.verb("update", &["--memory-swap", "16m"]).refused(1, &["linux.resources.memory.swap", "below"]);
}

#[test]
fn what_is_not_said_keeps_its_limit() {
    let mut bundle = bundle!();
    bundle.set("/linux/resources/cpu", json!({"shares": 512}));
    bundle.set("/linux/resources/pids", json!({"limit": 20}));
    bundle.running();
    let before = shares(&bundle);
    let devices = limit(&bundle, "devices", ("devices.list", ""));
    let rules = remembered(&bundle)["devices"].clone();
    let sparse = json!({
        "devices": [{"allow": true, "access": "rwm"}],
        "memory": {"limit": 67_108_864, "swap": null},
        "cpu": {"shares": 0, "quota": 0},
        "pids": {},
    });
    bundle.call(["update", "--resources"]).arg(resources(&bundle, &sparse)).arg(&bundle.id).output().ok();
    let memory = limit(&bundle, "memory", ("memory.limit_in_bytes", "memory.max"));
    assert_eq!(memory.as_deref(), Some("67108864"));
    assert_eq!(shares(&bundle), before);
    assert_eq!(limit(&bundle, "pids", ("pids.max", "pids.max")).as_deref(), Some("20"));
    assert_eq!(limit(&bundle, "devices", ("devices.list", "")), devices);
    let now = remembered(&bundle);
    assert_eq!((&now["devices"], &now["pids"]), (&rules, &json!({"limit": 20})));
    assert_eq!(now["memory"]["limit"], 67_108_864);
}

#[test]
fn limits_come_from_standard_input() {
    let mut bundle = bundle!();
    bundle.running();
    for (words, number) in [(&["--resources", "-"][..], 33), (&["--resources=-"], 44), (&["-r", "-"], 55)] {
        let document = resources(&bundle, &json!({"pids": {"limit": number}}));
        let stdin = fs::File::open(document).unwrap();
        bundle.call(["update"]).args(words).arg(&bundle.id).stdin(stdin).output().ok();
        let limit = limit(&bundle, "pids", ("pids.max", "pids.max"));
        assert_eq!(limit, Some(number.to_string()), "{words:?}");
    }
}

#[test]
fn an_option_comes_on_top_of_the_file() {
    let mut bundle = bundle!();
    bundle.running();
    let document = resources(&bundle, &json!({"pids": {"limit": 33}, "cpu": {"shares": 512}}));
    let call = bundle.call(["update", "--pids-limit", "44", "--resources"]).arg(document);
    call.arg(&bundle.id).output().ok();
    assert_eq!(limit(&bundle, "pids", ("pids.max", "pids.max")).as_deref(), Some("44"));
    assert_eq!(shares(&bundle), if on_v2("cpu") { "59" } else { "512" });
}

#[test]
fn an_update_that_fails_changes_nothing() {
    let mut bundle = bundle!();
    bundle.set("/linux/resources/cpu", json!({"shares": 512}));
    bundle.running();
    let (before, config) = (shares(&bundle), remembered(&bundle));
    let refused = bundle.verb("update", &["--cpu-share", "2048", "--cpuset-cpus", "8191"]);
    refused.refused(1, &["no limit was changed", "linux.resources.cpu.cpus", "cpuset.cpus"]);
    assert_eq!(shares(&bundle), before);
    assert_eq!(remembered(&bundle), config);
    bundle.verb("update", &["--cpu-share", "2048"]).ok();
    assert_ne!(shares(&bundle), before);
}

#[test]
fn what_nobody_could_write_is_not_put_back() {
    if hierarchy(if on_v2("memory") { "io" } else { "blkio" }).is_none() {
        skip!("no controller of block devices");
    }
    let mut bundle = bundle!();
    bundle.set("/linux/resources/pids", json!({"limit": 50}));
    bundle.running();
    let nowhere = json!([{"major": 4095, "minor": 77, "rate": 1_000_000}]);
    let document = json!({"pids": {"limit": 60}, "blockIO": {"throttleReadBpsDevice": nowhere}});
    let call = bundle.call(["update", "--resources"]).arg(resources(&bundle, &document));
    let place = "linux.resources.blockIO.throttleReadBpsDevice[0].rate";
    call.arg(&bundle.id).output().refused(1, &["no limit was changed", place, "No such device"]);
    assert_eq!(limit(&bundle, "pids", ("pids.max", "pids.max")).as_deref(), Some("50"));
}

#[test]
fn the_weight_of_a_group_outlives_an_idleness_that_was_taken_back() {
    let mut bundle = bundle!();
    bundle.set("/linux/resources/cpu", json!({"shares": 512}));
    bundle.running();
    if limit(&bundle, "cpu", ("cpu.idle", "cpu.idle")).is_none() {
        skip!("this kernel has no cpu.idle");
    }
    let before = shares(&bundle);
    let refused = bundle.verb("update", &["--cpu-idle", "1", "--cpuset-cpus", "8191"]);
    refused.refused(1, &["no limit was changed", "linux.resources.cpu.cpus"]);
    assert_eq!(shares(&bundle), before);
    bundle.verb("update", &["--cpu-idle", "1"]).ok();
    assert_ne!(shares(&bundle), before);
    bundle.verb("update", &["--cpu-idle", "0"]).ok();
    assert_eq!(shares(&bundle), before);
}

#[test]
fn what_is_asked_for_is_written_whoever_changed_it_meanwhile() {
    let mut bundle = bundle!();
    bundle.set("/linux/resources/pids", json!({"limit": 50}));
    bundle.running();
    let Some(file) = hierarchy("pids").map(|root| root.join(&bundle.id).join("pids.max")) else {
        skip!("no pids controller")
    };
    fs::write(&file, "7").unwrap();
    bundle.verb("update", &["--cpu-share", "512"]).ok();
    assert_eq!(fs::read_to_string(&file).unwrap(), "7\n", "nobody asked");
    bundle.verb("update", &["--pids-limit", "50"]).ok();
    assert_eq!(fs::read_to_string(&file).unwrap(), "50\n");
}

#[test]
fn a_limit_that_cannot_be_is_refused_by_name() {
    let mut bundle = bundle!();
    bundle.running();
    let before = remembered(&bundle);
    for (options, phrases) in [
        (&["--cpu-idle", "2"][..], &["linux.resources.cpu.idle", "0 or 1"][..]),
        (&["--memory", "-5"], &["--memory", "-5"]),
        (&["--memory", "64x"], &["--memory", "64x"]),
        (&["--pids-limit", "many"], &["--pids-limit", "many"]),
        (&["--blkio-weight", "5"], &["linux.resources.blockIO.weight", "10 to 1000"]),
        (&["--l3-cache-schema", "L3:0=f"], &["--l3-cache-schema", "intelRdt"]),
        (&["--mem-bw-schema", "MB:0=50"], &["--mem-bw-schema", "intelRdt"]),
        (&["--resources", "/nonexistent"], &["--resources: /nonexistent", "No such file"]),
    ] {
        bundle.verb("update", options).refused(1, phrases);
    }
    for (text, phrase) in [("[]", "object"), ("{", "line 1"), (r#"{"pids": {"limit": "x"}}"#, "pids.limit")] {
        let path = bundle.scratch().join("wrong.json");
        fs::write(&path, text).unwrap();
        let call = bundle.call(["update", "--resources"]).arg(&path).arg(&bundle.id);
        call.output().refused(1, &["--resources", phrase]);
    }
    assert_eq!(remembered(&bundle), before);
}

#[test]
fn a_limit_below_what_is_in_use_is_refused_where_that_is_to_be_looked_at() {
    if hierarchy("memory").is_none() {
        skip!("no memory controller");
    }
    let mut bundle = bundle!();
    bundle.set("/linux/resources/memory", json!({"limit": 67_108_864}));
    bundle.shell("head -c 16777216 /dev/zero > /dev/shm/file; echo written; exec sleep 600");
    let output = bundle.create().ok();
    bundle.start().ok();
    eventually("the memory is in use", || output.stdout().contains("written").then_some(()));
    let memory = || limit(&bundle, "memory", ("memory.limit_in_bytes", "memory.max"));
    let document = resources(&bundle, &json!({"memory": {"limit": 8_388_608, "checkBeforeUpdate": true}}));
    let call = bundle.call(["update", "--resources"]).arg(document).arg(&bundle.id);
    call.output().refused(1, &["linux.resources.memory.limit", "8388608 is below the", "in use"]);
    assert_eq!(memory().as_deref(), Some("67108864"));
    bundle.assert_status("running");
    bundle.verb("update", &["--memory", "33554432"]).ok();
    assert_eq!(memory().as_deref(), Some("33554432"));
}

#[test]
fn only_a_container_that_is_there_and_has_not_stopped_is_updated() {
    let mut bundle = bundle!();
    bundle.verb("update", &["--pids-limit", "5"]).refused(1, &["does not exist"]);
    bundle.args(&["/witness", "signal-wait"]);
    bundle.create().ok();
    bundle.verb("update", &["--pids-limit", "30"]).ok();
    bundle.start().ok();
    bundle.verb("pause", &[]).ok();
    bundle.verb("update", &["--pids-limit", "40"]).ok();
    bundle.assert_status("paused");
    assert_eq!(limit(&bundle, "pids", ("pids.max", "pids.max")).as_deref(), Some("40"));
    bundle.kill("KILL").ok();
    assert_eq!(bundle.wait(), 128 + 9);
    bundle.verb("update", &["--pids-limit", "5"]).refused(1, &["container not running"]);
}
