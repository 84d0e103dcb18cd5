//! Supervision: who owns whom, what reaches a runtime that waits, and that no wait is for ever.

use std::fs;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::json;

use crate::bundle::{Bundle, bundle, skip};
use crate::call::{Call, Running, eventually};
use crate::cgroups::{hierarchy, unified};

fn terminate(running: &Running) {
    kill(Pid::from_raw(running.pid()), Signal::SIGTERM).expect("signal the runtime");
}

/// The call by way of a shell that does something first; `"$@"` is the call.
pub fn by_shell(bundle: &Bundle, line: &str, call: &Call) -> Call {
    let shell = Call::new("sh", &bundle.scratch()).args(["-c", line, "sh"]);
    shell.arg(call.command.get_program()).args(call.command.get_args().collect::<Vec<_>>())
}

#[test]
fn a_run_that_waits_for_a_hook_inside_can_be_told_to_end() {
    for kind in ["createContainer", "startContainer"] {
        let mut bundle = bundle!();
        let log = bundle.rootfs().join("tmp/log");
        bundle.mount(json!({"destination": "/tmp", "source": log.parent(), "options": ["bind"]}));
        // The one runs with the host's paths, the other with the container's.
        let shown = if kind == "createContainer" { log.to_str().unwrap() } else { "/tmp/log" };
        let line = format!("echo waits >{shown}; exec sleep 60");
        bundle.set(&format!("/hooks/{kind}"), json!([{"path": "/bin/sh", "args": ["sh", "-c", line]}]));
        let running = bundle.birth("run", &[]).spawn();
        eventually("the hook waits", || log.exists().then_some(()));
        terminate(&running);
        running.wait().refused(1, &["interrupted by a signal"]);
        bundle.assert_nothing_left(&format!("a run that was told to end in its {kind} hook"));
    }
}

#[test]
fn exec_in_a_paused_container_waits_for_it_to_go_on_if_asked() {
    let mut bundle = bundle!();
    bundle.running();
    bundle.verb("pause", &[]).ok();
    let exec = || bundle.call(["exec", "--ignore-paused", &bundle.id, "/bin/echo", "went on"]).spawn();
    let (patient, impatient) = (exec(), exec());
    std::thread::sleep(Duration::from_millis(200));
    terminate(&impatient);
    // A v1 freezer does not let even the dead go; that it waits for them has an end.
    impatient.wait().refused(255, &["interrupted by a signal"]);
    assert_eq!(patient.stdout(), "");
    bundle.verb("resume", &[]).ok();
    assert_eq!(patient.wait().ok().stdout(), "went on\n");
    // What was given up on v1 dies now, and is left to the caller's subreaper.
    let pids = || bundle.verb("ps", &["--format", "json"]).ok().json();
    eventually("only init is left", || (pids() == json!([bundle.pid()])).then_some(()));
    bundle.reap_orphans();
}

#[test]
fn a_caller_that_ignores_its_children_changes_nothing() {
    let mut bundle = bundle!();
    bundle.set("/hooks/createRuntime", json!([{"path": "/bin/true"}]));
    bundle.shell("grep SigIgn /proc/self/status; exit 7");
    let ignoring = |bundle: &Bundle, call: &Call| by_shell(bundle, "trap '' CHLD; exec \"$@\"", call);
    let output = ignoring(&bundle, &bundle.birth("run", &[])).output();
    assert_eq!(output.code(), 7, "{output}");
    let ignored =
        output.stdout().trim().rsplit('\t').next().map(|mask| u64::from_str_radix(mask, 16).unwrap());
    assert_eq!(ignored.unwrap() >> (Signal::SIGCHLD as u64 - 1) & 1, 0, "{output}");
    bundle.running();
    let exec = bundle.call(["exec", &bundle.id, "/witness", "exit", "8"]);
    assert_eq!(ignoring(&bundle, &exec).output().code(), 8);
}

#[test]
fn a_container_outlives_a_caller_whose_death_ends_the_runtime() {
    let mut bundle = bundle!();
    bundle.args(&["/bin/sleep", "60"]);
    // As engines do: the runtime is to die with the thread that started it.
    let line = "setpriv --pdeathsig KILL \"$@\" && exit 3";
    assert_eq!(by_shell(&bundle, line, &bundle.birth("create", &[])).output().code(), 3);
    let start = bundle.call(["start", &bundle.id]);
    assert_eq!(by_shell(&bundle, line, &start).output().code(), 3);
    std::thread::sleep(Duration::from_millis(50));
    bundle.assert_status("running");
}

#[test]
fn a_run_that_is_killed_leaves_its_container_to_the_callers_subreaper() {
    let mut bundle = bundle!();
    bundle.args(&["/bin/sleep", "60"]);
    let running = bundle.birth("run", &[]).spawn();
    eventually("the container runs", || {
        let state = bundle.verb("state", &[]);
        (state.code() == 0 && state.json()["status"] == "running").then_some(())
    });
    kill(Pid::from_raw(running.pid()), Signal::SIGKILL).expect("kill the runtime");
    assert_eq!(running.wait().code(), 128 + 9);
    bundle.assert_status("running");
    bundle.kill("KILL").ok();
    assert_eq!(bundle.wait(), 128 + 9);
}

#[test]
fn run_waits_for_the_orphans_that_are_left_to_it() {
    let mut bundle = bundle!();
    // Without a pid namespace they go to the nearest subreaper, which is the runtime.
    bundle.drop_namespace("pid");
    bundle.shell(
        "for i in 1 2 3; do setsid sh -c 'sleep 0.1' & done; sleep 0.1; (sleep 0.2 &); sleep 0.6; exit 4",
    );
    let running = bundle.birth("run", &[]).spawn();
    let children = format!("/proc/{0}/task/{0}/children", running.pid());
    let zombies = || {
        let text = fs::read_to_string(&children).unwrap_or_default();
        let is_zombie = |pid: &&str| {
            fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| stat.contains(") Z "))
        };
        text.split_whitespace().filter(is_zombie).count()
    };
    std::thread::sleep(Duration::from_millis(500));
    eventually("all are waited for", || (zombies() == 0).then_some(()));
    assert_eq!(running.wait().code(), 4);
}

#[test]
fn a_dead_process_that_keeps_a_container_is_told_from_one_that_lives() {
    let mut bundle = bundle!();
    bundle.running();
    // The test is its parent, and does not wait for it.
    bundle.exec_detached(&[], &["/bin/true"]);
    let delete = bundle.verb("delete", &["--force"]);
    delete.refused(1, &["still running", "that its own parent has not waited for"]);
    bundle.reap_orphans();
    bundle.verb("delete", &["--force"]).ok();
}

#[test]
fn a_process_that_cannot_die_is_named_before_the_patience_of_an_engine_ends() {
    if unified() || hierarchy("freezer").is_none() {
        skip!("nothing is beyond death here but what a v1 freezer holds");
    }
    let mut bundle = bundle!();
    bundle.set("/linux/cgroupsPath", json!(format!("/{}/box", bundle.id)));
    bundle.running();
    // Frozen from above: not for the runtime to thaw.
    let above = hierarchy("freezer").unwrap().join(&bundle.id).join("freezer.state");
    fs::write(&above, "FROZEN").unwrap();
    let start = Instant::now();
    let delete = bundle.verb("delete", &["--force"]);
    let took = start.elapsed();
    fs::write(&above, "THAWED").unwrap();
    let pid = bundle.pid().to_string();
    delete.refused(1, &["still running", &format!("process {pid}"), "in state D"]);
    assert!(took < Duration::from_secs(20), "{took:?}");
    bundle.verb("delete", &["--force"]).ok();
    // The directory above is found empty by whoever makes the next container there.
    assert_eq!(bundle.wait(), 128 + 9);
    bundle.assert_nothing_left("delete --force of what was thawed");
}

#[test]
fn a_create_that_cannot_clean_up_leaves_what_delete_by_force_takes() {
    if unified() || hierarchy("freezer").is_none() {
        skip!("nothing is beyond death here but what a v1 freezer holds");
    }
    let mut bundle = bundle!();
    bundle.set("/linux/cgroupsPath", json!(format!("/{}/box", bundle.id)));
    let above = hierarchy("freezer").unwrap().join(&bundle.id).join("freezer.state");
    let line = format!("echo FROZEN >{}; exit 1", above.display());
    let hook = json!([{"path": "/bin/sh", "args": ["sh", "-c", line], "env": ["PATH=/bin"]}]);
    bundle.set("/hooks/createRuntime", hook);
    bundle.create().refused(1, &["createRuntime", "could not clean up"]);
    fs::write(&above, "THAWED").unwrap();
    bundle.verb("delete", &["--force"]).ok();
    bundle.assert_nothing_left("delete --force of what a create had to leave");
}

/// The first thread is a zombie then, and the others run on.
#[test]
fn a_process_that_has_ended_its_first_thread_is_alive_and_can_be_killed() {
    let has_ended = |pid: i32| {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        status.contains("State:\tZ").then_some(())
    };
    let mut bundle = bundle!();
    bundle.args(&["/witness", "end-first-thread"]);
    bundle.create().ok();
    bundle.start().ok();
    eventually("the first thread has ended", || has_ended(bundle.pid()));
    bundle.assert_status("running");
    bundle.kill("KILL").ok();
    eventually("it has stopped", || (bundle.state()["status"] == "stopped").then_some(()));
    bundle.delete().ok();
    bundle.assert_nothing_left("a process that had ended its first thread");

    let mut bundle = bundle!();
    bundle.drop_namespace("pid");
    bundle.running();
    let guest = bundle.exec_detached(&[], &["/witness", "end-first-thread"]);
    eventually("the guest's first thread has ended", || has_ended(guest));
    bundle.verb("delete", &["--force"]).ok();
    bundle.assert_nothing_left("a guest that had ended its first thread");
}

#[test]
fn a_run_tells_how_its_container_ended_whoever_deletes_it() {
    let mut bundle = bundle!();
    bundle.args(&["/bin/sleep", "1000"]);
    let running = bundle.birth("run", &[]).spawn();
    eventually("it runs", || (bundle.verb("state", &[]).stdout().contains("running")).then_some(()));
    bundle.verb("delete", &["--force"]).ok();
    assert_eq!(running.wait().code(), 128 + 9);
    bundle.assert_nothing_left("a container that somebody else has deleted");
}
