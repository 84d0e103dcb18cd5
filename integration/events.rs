//! `events`: what a container uses, in the shape that go-runc reads, as a stream and once.

use std::fs;
use std::path::Path;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

use crate::bundle::{Bundle, bundle, skip};
use crate::call::{Running, eventually};
use crate::cgroups::hierarchy;

/// One record of what is used now.
fn stats(bundle: &Bundle) -> Value {
    let output = bundle.verb("events", &["--stats"]).ok();
    assert_eq!(output.stdout().lines().count(), 1, "{output}");
    assert_eq!(output.stderr, "");
    let record = output.json();
    assert_eq!((&record["type"], &record["id"]), (&json!("stats"), &json!(bundle.id)));
    record["data"].clone()
}

fn stream(bundle: &Bundle, interval: &str) -> Running {
    bundle.call(["events", "--interval", interval, &bundle.id]).spawn()
}

/// The whole lines so far.
fn records(stream: &Running) -> Vec<Value> {
    let text = stream.stdout();
    let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
    whole
        .lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{line}: {error}")))
        .collect()
}

fn number(stats: &Value, pointer: &str) -> u64 {
    stats.pointer(pointer).and_then(Value::as_u64).unwrap_or_else(|| panic!("no {pointer} in {stats}"))
}

#[test]
fn a_record_has_the_members_of_go_runc() {
    let mut bundle = bundle!();
    bundle.set("/linux/resources/pids", json!({"limit": 17}));
    bundle.set("/linux/resources/memory", json!({"limit": 67_108_864}));
    bundle.running();
    let stats = stats(&bundle);
    for member in ["cpu", "cpuset", "memory", "pids", "blkio", "hugetlb", "intel_rdt"] {
        assert!(stats[member].is_object(), "{member} in {stats}");
    }
    assert_eq!(stats.get("network_interfaces"), Some(&Value::Null));
    if hierarchy("pids").is_some() {
        assert_eq!(number(&stats, "/pids/limit"), 17);
        assert_eq!(number(&stats, "/pids/current"), 1);
    }
    if hierarchy("memory").is_some() {
        assert_eq!(number(&stats, "/memory/usage/limit"), 67_108_864);
        assert!(number(&stats, "/memory/usage/usage") > 0);
        assert!(stats["memory"]["raw"].as_object().is_some_and(|raw| raw.len() > 10), "{stats}");
    }
}

#[test]
fn pressure_is_told_where_there_is_a_v2_group() {
    let mut bundle = bundle!();
    bundle.running();
    let groups = crate::traces::hierarchies();
    let has_pressure = |group: &Path| fs::read(group.join(&bundle.id).join("cpu.pressure")).is_ok();
    if !groups.iter().any(|group| has_pressure(group)) {
        skip!("no pressure stall information");
    }
    let stats = stats(&bundle);
    for part in ["cpu", "memory", "blkio"] {
        for kind in ["some", "full"] {
            number(&stats, &format!("/{part}/psi/{kind}/total"));
        }
    }
}

#[test]
fn a_busy_container_uses_more_and_more() {
    let mut bundle = bundle!();
    bundle.shell("while true; do true; done");
    bundle.create().ok();
    let before = number(&stats(&bundle), "/cpu/usage/total");
    bundle.start().ok();
    // Ten milliseconds, in nanoseconds: more than start itself takes.
    eventually("processor time", || {
        (number(&stats(&bundle), "/cpu/usage/total") > before + 10_000_000).then_some(())
    });
}

#[test]
fn a_stream_has_a_record_each_interval_and_ends_with_the_container() {
    let mut bundle = bundle!();
    bundle.running();
    let stream = stream(&bundle, "20ms");
    eventually("three records", || (records(&stream).len() >= 3).then_some(()));
    bundle.kill("KILL").ok();
    let output = stream.wait().ok();
    assert_eq!(output.stderr, "");
    for line in output.stdout().lines() {
        let record: Value = serde_json::from_str(line).unwrap();
        assert_eq!((&record["type"], &record["id"]), (&json!("stats"), &json!(bundle.id)));
        assert!(record["data"].is_object(), "{record}");
    }
    bundle.wait();
}

#[test]
fn the_first_record_comes_after_an_interval() {
    let mut bundle = bundle!();
    bundle.running();
    let stream = stream(&bundle, "1h");
    let place = format!("/proc/{}/wchan", stream.pid());
    eventually("the stream waits", || fs::read_to_string(&place).unwrap().contains("poll").then_some(()));
    bundle.kill("KILL").ok();
    assert_eq!(stream.wait().ok().stdout(), "");
    bundle.wait();
}

#[test]
fn a_process_killed_for_want_of_memory_is_told() {
    if hierarchy("memory").is_none() {
        skip!("no memory controller");
    }
    let mut bundle = bundle!();
    bundle.set("/linux/resources/memory", json!({"limit": 16_777_216, "swap": 16_777_216}));
    // The shell stays below the limit, and its children double a word until it is over.
    bundle.shell("while true; do sh -c 'word=x; while true; do word=$word$word; done'; done");
    bundle.create().ok();
    let stream = stream(&bundle, "1h");
    bundle.start().ok();
    eventually("a notice", || {
        records(&stream).contains(&json!({"type": "oom", "id": bundle.id})).then_some(())
    });
    bundle.assert_status("running");
    bundle.kill("KILL").ok();
    stream.wait().ok();
    bundle.wait();
}

#[test]
fn a_created_container_has_statistics() {
    let bundle = bundle!();
    bundle.create().ok();
    assert!(stats(&bundle)["memory"].is_object());
}

#[test]
fn a_container_that_does_not_run_is_refused_in_runcs_words() {
    let bundle = bundle!();
    bundle.create().ok();
    kill(Pid::from_raw(bundle.pid()), Signal::SIGKILL).unwrap();
    bundle.wait();
    let words = format!("container with id {} is not running", bundle.id);
    bundle.verb("events", &["--stats"]).refused(1, &[&words]);
    bundle.verb("events", &[]).refused(1, &[&words]);
    bundle.delete().ok();
    bundle.verb("events", &["--stats"]).refused(1, &["does not exist"]);
    bundle.verb("events", &["--interval", "0"]).refused(1, &["duration interval must be greater than 0"]);
}
