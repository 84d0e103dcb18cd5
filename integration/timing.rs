//! `--timing`: what a command spends its time on, as text and as a trace.

use std::fs;

use serde_json::Value;

use crate::bundle::{bundle, skip};

/// Parts of a birth that lie on both sides of the clone.
const BIRTH: [&str; 5] =
    ["read the bundle", "clone", "mount proc on /proc", "pivot", "open the gate, see the program begin"];

#[test]
fn a_file_gets_a_waterfall_of_every_command() {
    let mut bundle = bundle!();
    bundle.running();
    let file = bundle.scratch().join("times");
    let exec = bundle.call(["exec", &bundle.id, "/bin/true"]);
    exec.env("CORTEN_TIMING", &file).output().ok();
    bundle.verb("delete", &["--force"]).ok();
    bundle.wait();
    bundle.args(&["/bin/true"]);
    bundle.birth("run", &[]).env("CORTEN_TIMING", &file).output().ok();
    let text = fs::read_to_string(&file).unwrap();
    let (exec, run) = text.split_once("\n\n").expect("two records");
    assert!(exec.contains("see the program begin") && exec.contains("join the container's"), "{exec}");
    for what in BIRTH {
        assert!(run.contains(what), "no {what:?} in {run}");
    }
}

#[test]
fn a_file_named_json_gets_a_trace() {
    let mut bundle = bundle!();
    let file = bundle.scratch().join("times.json");
    bundle.args(&["/bin/true"]);
    bundle.birth("run", &[]).env("CORTEN_TIMING", &file).output().ok();
    let text = fs::read_to_string(&file).unwrap();
    let list = format!("{}]", text.trim_end().trim_end_matches(','));
    let events: Vec<Value> = serde_json::from_str(&list).unwrap();
    for what in BIRTH {
        assert!(events.iter().any(|event| event["name"] == what), "no {what:?} in {text}");
    }
}

#[test]
fn a_failed_birth_has_its_times_too() {
    let mut bundle = bundle!();
    let file = bundle.scratch().join("times");
    bundle.args(&["/bin/missing"]);
    bundle.birth("create", &[]).env("CORTEN_TIMING", &file).output().refused(1, &["no such file"]);
    assert!(fs::read_to_string(&file).unwrap().contains("pivot"));
}

#[test]
fn a_file_that_cannot_be_written_is_refused_before_anything_is_made() {
    let bundle = bundle!();
    let file = bundle.scratch().join("missing/times");
    bundle
        .birth("create", &[])
        .env("CORTEN_TIMING", &file)
        .output()
        .refused(1, &["--timing", "missing/times"]);
    bundle.assert_nothing_left("a file that cannot be written");
}
