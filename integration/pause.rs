//! Pause and resume: what is held still, what can be done with it meanwhile, and that it goes on.

use std::fs;
use std::thread;
use std::time::Duration;

use crate::bundle::{Bundle, bundle, skip};
use crate::call::{Output, eventually};

/// A running container that counts on its standard output.
fn counting(bundle: &mut Bundle) -> Output {
    bundle.shell("while echo tick; do sleep 0.01; done");
    let output = bundle.create().ok();
    bundle.start().ok();
    eventually("the container counts", || output.stdout().contains("tick").then_some(()));
    output
}

#[test]
fn a_paused_container_stands_still_and_a_resumed_one_goes_on() {
    let mut bundle = bundle!();
    let output = counting(&mut bundle);
    bundle.verb("pause", &[]).ok();
    bundle.assert_status("paused");
    let count = output.stdout().len();
    thread::sleep(Duration::from_millis(200));
    assert_eq!(output.stdout().len(), count, "it counts although it is paused");

    bundle.verb("resume", &[]).ok();
    bundle.assert_status("running");
    eventually("it counts again", || (output.stdout().len() > count).then_some(()));
}

#[test]
fn only_what_runs_can_be_paused_and_only_what_is_paused_resumed() {
    let mut bundle = bundle!();
    for verb in ["pause", "resume"] {
        bundle.verb(verb, &[]).refused(1, &["does not exist"]);
    }
    bundle.running();
    bundle.verb("resume", &[]).refused(1, &["container not paused"]);
    bundle.verb("pause", &[]).ok();
    bundle.verb("pause", &[]).refused(1, &["container not running"]);
    bundle.assert_status("paused");
    bundle.kill("KILL").ok();
    assert_eq!(bundle.wait(), 128 + 9);
    // As containerd does with a container that ended while it was paused.
    bundle.verb("resume", &[]).refused(1, &["container not paused"]);
    bundle.verb("pause", &[]).refused(1, &["container not running"]);
}

#[test]
fn a_created_container_can_be_paused_and_starts_after_it_is_resumed() {
    let mut bundle = bundle!();
    bundle.shell("echo started");
    let created = bundle.create().ok();
    bundle.verb("pause", &[]).ok();
    bundle.assert_status("paused");
    bundle.start().refused(1, &["cannot start"]);
    bundle.verb("resume", &[]).ok();
    bundle.assert_status("created");
    bundle.start().ok();
    assert_eq!(bundle.wait(), 0);
    assert_eq!(created.stdout(), "started\n");
}

#[test]
fn exec_in_a_paused_container_is_refused() {
    let mut bundle = bundle!();
    bundle.running();
    bundle.verb("pause", &[]).ok();
    bundle.exec(&["/bin/true"]).refused(255, &["cannot exec in a paused container"]);
    bundle.verb("resume", &[]).ok();
    bundle.exec(&["/bin/true"]).ok();
}

#[test]
fn a_signal_to_a_paused_container_arrives_when_it_is_resumed() {
    let mut bundle = bundle!();
    let output = bundle.running();
    bundle.verb("pause", &[]).ok();
    bundle.kill("USR1").ok();
    bundle.assert_status("paused");
    assert_eq!(output.stdout(), "ready\n");
    bundle.verb("resume", &[]).ok();
    assert_eq!(bundle.wait(), 0);
    assert_eq!(output.stdout(), "ready\nSIGUSR1\n");
}

#[test]
fn a_paused_container_is_killed_and_deleted() {
    let mut bundle = bundle!();
    counting(&mut bundle);
    bundle.verb("pause", &[]).ok();
    bundle.kill("KILL").ok();
    assert_eq!(bundle.wait(), 128 + 9);
    bundle.delete().ok();
    bundle.assert_nothing_left("delete");

    let mut bundle = bundle!();
    counting(&mut bundle);
    bundle.verb("pause", &[]).ok();
    bundle.delete().refused(1, &["not stopped: paused"]);
    bundle.assert_status("paused");
    bundle.verb("delete", &["--force"]).ok();
    bundle.assert_nothing_left("delete --force");
}

#[test]
fn further_processes_are_paused_with_the_first() {
    let mut bundle = bundle!();
    bundle.running();
    let ticks = bundle.scratch().join("ticks");
    let mut call = bundle.call(["exec", "--detach", "--pid-file"]).arg(bundle.scratch().join("exec-1.pid"));
    call.command.stdout(fs::File::create(&ticks).unwrap());
    call.arg(&bundle.id).args(["/bin/sh", "-c", "while echo tick; do sleep 0.01; done"]).output().ok();
    let count = || fs::metadata(&ticks).unwrap().len();
    eventually("the second process counts", || (count() > 0).then_some(()));
    bundle.verb("pause", &[]).ok();
    let before = count();
    thread::sleep(Duration::from_millis(200));
    assert_eq!(count(), before, "it counts although it is paused");
    bundle.verb("resume", &[]).ok();
    eventually("it counts again", || (count() > before).then_some(()));
}
