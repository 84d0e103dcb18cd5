//! Lifecycle: create, start, run, kill, delete, and the states between them.

use std::fs;
use std::process::Stdio;

use nix::sys::signal::Signal;
use serde_json::json;

use crate::bundle::{bundle, skip};
use crate::call::{affordable, eventually};
use crate::supervision::by_shell;

#[test]
fn create_leaves_a_container_that_waits_for_start() {
    let mut bundle = bundle!();
    bundle.shell("echo started");
    let created = bundle.create().ok();
    let state = bundle.state();
    assert_eq!(state["status"], "created");
    assert_eq!(state["id"], bundle.id.as_str());
    assert_eq!(state["pid"], bundle.pid());
    assert_eq!(state["bundle"], bundle.path().to_str().unwrap());
    assert_eq!(state["rootfs"], bundle.rootfs().to_str().unwrap());
    assert_eq!(created.stdout(), "", "the process must not run before start");
    assert_eq!(created.stderr, "");

    bundle.start().ok();
    assert_eq!(bundle.wait(), 0);
    assert_eq!(created.stdout(), "started\n");
    bundle.assert_status("stopped");
    bundle.delete().ok();
    bundle.verb("state", &[]).refused(1, &["does not exist"]);
}

#[test]
fn the_four_states_follow_each_other() {
    let mut bundle = bundle!();
    bundle.args(&["/witness", "signal-wait"]);
    bundle.create().ok();
    bundle.assert_status("created");
    bundle.start().ok();
    bundle.assert_status("running");
    bundle.kill("KILL").ok();
    assert_eq!(bundle.wait(), 128 + 9);
    let state = bundle.state();
    assert_eq!(state["status"], "stopped");
    assert_eq!(state["pid"], 0);
    bundle.delete().ok();
}

#[test]
fn the_state_of_a_container_has_what_engines_read() {
    let mut bundle = bundle!();
    bundle.set("/annotations", json!({"org.example.key": "a value"}));
    bundle.create().ok();
    let state = bundle.state();
    assert_eq!(state["annotations"]["org.example.key"], "a value");
    let version = state["ociVersion"].as_str().expect("a version");
    assert!(version.starts_with("1."), "{version}");
    let created = state["created"].as_str().expect("a time");
    assert!(is_rfc3339(created), "{created}");
}

/// The shape `2026-11-22T10:30:00.123456789Z`, with or without a fraction, or with an offset.
pub fn is_rfc3339(text: &str) -> bool {
    let shape = "0000-00-00T00:00:00";
    let digits = |(have, want): (char, char)| if want == '0' { have.is_ascii_digit() } else { have == want };
    text.len() > shape.len()
        && text.chars().zip(shape.chars()).all(digits)
        && (text.ends_with('Z') || text[shape.len()..].contains(['+', '-']))
}

#[test]
fn run_returns_the_exit_code_of_the_process() {
    let mut bundle = bundle!();
    bundle.args(&["/witness", "exit", "7"]);
    assert_eq!(bundle.run().code(), 7);
}

#[test]
fn run_returns_128_and_the_number_of_the_signal_that_ended_the_process() {
    let mut bundle = bundle!();
    // A signal without a handler passes by the first process of a pid namespace.
    bundle.drop_namespace("pid").shell("kill -KILL $$");
    assert_eq!(bundle.run().code(), 128 + 9);
}

#[test]
fn run_deletes_the_container_when_it_ends() {
    let mut bundle = bundle!();
    bundle.args(&["/bin/true"]);
    bundle.run().ok();
    bundle.assert_nothing_left("run");
}

#[test]
fn run_with_keep_leaves_a_stopped_container() {
    let mut bundle = bundle!();
    bundle.args(&["/bin/true"]);
    bundle.birth("run", &["--keep"]).output().ok();
    bundle.assert_status("stopped");
    bundle.delete().ok();
}

#[test]
fn run_detached_returns_while_the_container_runs() {
    let mut bundle = bundle!();
    bundle.args(&["/witness", "signal-wait"]);
    bundle.birth("run", &["--detach"]).output().ok();
    bundle.assert_status("running");
}

#[test]
fn run_forwards_signals_to_the_process() {
    let mut bundle = bundle!();
    bundle.args(&["/witness", "signal-wait"]);
    let running = bundle.birth("run", &[]).spawn();
    eventually("the witness waits", || running.stdout().contains("ready").then_some(()));
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(running.pid()), nix::sys::signal::Signal::SIGUSR1)
        .unwrap();
    let output = running.wait().ok();
    assert_eq!(output.stdout(), "ready\nSIGUSR1\n");
}

#[test]
fn run_forwards_every_signal_that_can_be_caught() {
    // Faults of the runtime's own, news of its children and terminal, and those that nobody can catch.
    let others = [4, 6, 7, 8, 9, 11, 17, 19, 21, 22, 23, 28];
    let signals = (1..=31).chain([34, 37, 64]).filter(|signal| !others.contains(signal));
    for signal in affordable(signals, 8) {
        let mut bundle = bundle!();
        bundle.args(&["/witness", "signal-wait"]);
        let running = bundle.birth("run", &[]).spawn();
        eventually("the witness waits", || running.stdout().contains("ready").then_some(()));
        let words = [format!("-{signal}"), running.pid().to_string()];
        assert!(std::process::Command::new("kill").args(words).status().unwrap().success());
        let name = Signal::try_from(signal).map_or(format!("signal {signal}"), |signal| signal.to_string());
        assert_eq!(running.wait().ok().stdout(), format!("ready\n{name}\n"), "signal {signal}");
    }
}

#[test]
fn stdin_stdout_and_stderr_are_those_of_the_caller() {
    let mut bundle = bundle!();
    bundle.shell("cat; echo to stderr >&2");
    let input = bundle.scratch().join("input");
    fs::write(&input, "through stdin\n").unwrap();
    let output = bundle.birth("run", &[]).stdin(fs::File::open(&input).unwrap()).output().ok();
    assert_eq!(output.stdout(), "through stdin\n");
    assert_eq!(output.stderr, "to stderr\n");
}

#[test]
fn a_closed_pipe_on_stdout_does_not_stop_the_runtime() {
    let mut bundle = bundle!();
    bundle.shell("echo lost; exit 3");
    let mut call = bundle.birth("run", &[]);
    call.command.stdout(Stdio::piped());
    let mut running = call.spawn();
    drop(running.child.stdout.take());
    assert_eq!(running.wait().code(), 3);
}

#[test]
fn a_second_create_with_the_same_id_fails_and_harms_nothing() {
    let mut bundle = bundle!();
    bundle.running();
    let before = bundle.traces();
    let again = bundle.call(["create", "--bundle"]).arg(bundle.path()).arg(&bundle.id).output();
    again.refused(1, &["exist", &bundle.id]);
    before.assert_same(&bundle.traces(), "a refused create");
    bundle.assert_status("running");
}

#[test]
fn of_two_creates_at_once_one_wins() {
    let bundle = bundle!();
    bundle.write_config();
    let calls: Vec<_> = (0..4)
        .map(|n| {
            let pid_file = bundle.scratch().join(format!("pid-{n}"));
            let call =
                bundle.call(["create", "--bundle"]).arg(bundle.path()).arg("--pid-file").arg(&pid_file);
            (call.arg(&bundle.id).spawn(), pid_file)
        })
        .collect();
    let winners: Vec<_> =
        calls.into_iter().filter_map(|(call, pid)| (call.wait().code() == 0).then_some(pid)).collect();
    assert_eq!(winners.len(), 1);
    let pid = fs::read_to_string(&winners[0]).unwrap();
    assert_eq!(bundle.state()["pid"].to_string(), pid);
    assert_eq!(bundle.traces().processes.len(), 1, "the losers left nothing");
    fs::rename(&winners[0], bundle.pid_file()).unwrap();
}

#[test]
fn start_needs_a_created_container() {
    let mut bundle = bundle!();
    bundle.start().refused(1, &["does not exist"]);
    bundle.running();
    bundle.start().refused(1, &[]);
    bundle.assert_status("running");
    bundle.kill("KILL").ok();
    bundle.wait();
    bundle.start().refused(1, &[]);
    bundle.assert_status("stopped");
}

#[test]
fn a_later_change_of_config_json_has_no_effect() {
    let mut bundle = bundle!();
    bundle.shell("echo first");
    let created = bundle.create().ok();
    bundle.shell("echo second");
    bundle.write_config();
    bundle.start().ok();
    bundle.wait();
    assert_eq!(created.stdout(), "first\n");
}

#[test]
fn a_container_outlives_its_config_json() {
    let mut bundle = bundle!();
    bundle.running();
    fs::remove_file(bundle.path().join("config.json")).unwrap();
    assert_eq!(bundle.exec(&["/bin/echo", "still here"]).ok().stdout(), "still here\n");
    bundle.kill("KILL").ok();
    bundle.wait();
    bundle.delete().ok();
}

#[test]
fn after_create_nothing_of_the_runtime_remains_but_init() {
    let bundle = bundle!();
    bundle.create().ok();
    let pid = bundle.pid();
    assert_eq!(bundle.traces().processes.into_iter().collect::<Vec<_>>(), [pid]);
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let parent = stat.rsplit_once(") ").unwrap().1.split(' ').nth(1).unwrap().to_string();
    assert_eq!(parent, std::process::id().to_string(), "init belongs to the caller's subreaper");
}

/// The pid file is written beside its place first, under a name that can be foreseen.
#[test]
fn a_link_that_lies_in_wait_for_the_pid_file_is_not_followed() {
    let mut bundle = bundle!();
    bundle.args(&["/bin/sleep", "60"]).write_config();
    let (victim, place) = (bundle.scratch().join("victim"), bundle.scratch().join("pids"));
    fs::write(&victim, "precious").unwrap();
    fs::create_dir(&place).unwrap();
    let line = format!("ln -s ../victim {}/.x.pid.$$ && exec \"$@\"", place.display());
    let call = bundle.call(["create", "--pid-file"]).arg(place.join("x.pid"));
    let call = by_shell(&bundle, &line, &call.arg("--bundle").arg(bundle.path()).arg(&bundle.id));
    call.output().ok();
    assert_eq!(fs::read_to_string(victim).unwrap(), "precious");
    let written = place.join("x.pid");
    assert!(fs::symlink_metadata(&written).unwrap().is_file());
    assert_eq!(fs::read_to_string(written).unwrap(), bundle.state()["pid"].to_string());
}

#[test]
fn the_pid_file_holds_the_decimal_pid_of_init() {
    let bundle = bundle!();
    bundle.create().ok();
    let text = fs::read_to_string(bundle.pid_file()).unwrap();
    assert_eq!(text, bundle.state()["pid"].to_string());
}

#[test]
fn kill_knows_signals_by_name_by_number_and_by_none() {
    for (signal, seen) in
        [("TERM", "SIGTERM"), ("SIGHUP", "SIGHUP"), ("usr2", "SIGUSR2"), ("10", "SIGUSR1"), ("", "SIGTERM")]
    {
        let mut bundle = bundle!();
        let output = bundle.running();
        let words = ["kill", &bundle.id, signal];
        let words = if signal.is_empty() { &words[..2] } else { &words[..] };
        bundle.call(words).output().ok();
        assert_eq!(bundle.wait(), 0);
        assert_eq!(output.stdout(), format!("ready\n{seen}\n"), "kill {signal:?}");
    }
}

#[test]
fn kill_refuses_a_signal_that_does_not_exist() {
    let mut bundle = bundle!();
    bundle.running();
    for signal in ["SIGNONE", "65", "-5", "TERMX"] {
        assert_ne!(bundle.call(["kill", &bundle.id, signal]).output().code(), 0, "{signal}");
    }
    bundle.assert_status("running");
}

#[test]
fn kill_reaches_a_created_container() {
    let bundle = bundle!();
    bundle.create().ok();
    bundle.kill("KILL").ok();
    assert_eq!(bundle.wait(), 128 + 9);
    bundle.assert_status("stopped");
}

#[test]
fn kill_of_a_stopped_container_fails_but_kill_all_does_not() {
    let mut bundle = bundle!();
    bundle.running();
    bundle.kill("KILL").ok();
    bundle.wait();
    bundle.kill("KILL").refused(1, &["container not running"]);
    bundle.call(["kill", "--all", &bundle.id, "KILL"]).output().ok();
}

#[test]
fn kill_of_an_unknown_container_says_that_it_does_not_exist() {
    let bundle = bundle!();
    bundle.kill("TERM").refused(1, &["does not exist"]);
}

#[test]
fn a_zombie_init_is_a_stopped_container() {
    let mut bundle = bundle!();
    bundle.running();
    bundle.kill("KILL").ok();
    eventually("init is a zombie", || {
        let stat = fs::read_to_string(format!("/proc/{}/stat", bundle.pid())).ok()?;
        stat.contains(") Z ").then_some(())
    });
    bundle.assert_status("stopped");
    bundle.delete().ok();
}

#[test]
fn kill_with_sigkill_ends_every_process_of_a_shared_pid_namespace() {
    let mut bundle = bundle!();
    bundle.drop_namespace("pid").shell("sleep 60 & sleep 60 & echo forked; wait");
    let output = bundle.create().ok();
    bundle.start().ok();
    eventually("the children run", || output.stdout().contains("forked").then_some(()));
    bundle.kill("KILL").ok();
    assert_eq!(bundle.wait(), 128 + 9);
    eventually("its children are gone", || bundle.traces().processes.is_empty().then_some(()));
}

#[test]
fn kill_with_all_signals_every_process_of_the_container() {
    let line = "trap 'echo init; wait' USR1; for i in 1 2; do sh -c 'trap \"echo child; exit\" USR1; echo ready; \
                while :; do sleep 0.01; done' & done; wait; wait";
    for namespace in [true, false] {
        let mut bundle = bundle!();
        if !namespace {
            bundle.drop_namespace("pid");
        }
        bundle.shell(line);
        let output = bundle.create().ok();
        bundle.start().ok();
        let count = |word: &str| output.stdout().matches(word).count();
        eventually("the children run", || (count("ready") == 2).then_some(()));
        bundle.kill("USR1").ok();
        eventually("init has heard", || (count("init") == 1).then_some(()));
        assert_eq!(count("child"), 0);
        bundle.call(["kill", "--all", &bundle.id, "USR1"]).output().ok();
        eventually("all have heard", || (count("init") == 2 && count("child") == 2).then_some(()));
    }
}

#[test]
fn kill_with_sigkill_reaches_the_children_of_an_init_that_is_gone() {
    let mut bundle = bundle!();
    bundle.drop_namespace("pid").shell("sleep 60 & exit 0");
    bundle.create().ok();
    bundle.start().ok();
    bundle.wait();
    assert_eq!(bundle.traces().processes.len(), 1, "the child runs on");
    bundle.call(["kill", "--all", &bundle.id, "KILL"]).output().ok();
    eventually("the child is gone", || bundle.traces().processes.is_empty().then_some(()));
}

#[test]
fn delete_takes_a_stopped_or_a_created_container_and_no_running_one() {
    let mut bundle = bundle!();
    bundle.create().ok();
    bundle.delete().ok();
    bundle.wait();
    bundle.running();
    bundle.delete().refused(1, &["cannot delete container", &bundle.id, "that is not stopped: running"]);
    bundle.assert_status("running");
    bundle.kill("KILL").ok();
    bundle.wait();
    bundle.delete().ok();
    bundle.delete().refused(1, &["does not exist"]);
}

#[test]
fn delete_by_force_ends_a_running_container() {
    let mut bundle = bundle!();
    bundle.running();
    bundle.verb("delete", &["--force"]).ok();
    assert_eq!(bundle.wait(), 128 + 9);
    bundle.assert_nothing_left("delete --force");
}

#[test]
fn delete_by_force_of_an_unknown_container_succeeds_in_silence() {
    let bundle = bundle!();
    let output = bundle.verb("delete", &["--force"]).ok();
    assert_eq!(output.stdout() + &output.stderr, "");
}

#[test]
fn delete_leaves_what_create_did_not_make() {
    let mut bundle = bundle!();
    let volume = bundle.scratch().join("volume");
    fs::create_dir(&volume).unwrap();
    bundle.mount(json!({"destination": "/volume", "source": volume, "options": ["bind"]}));
    bundle.shell("echo kept > /volume/file");
    bundle.run().ok();
    assert_eq!(fs::read_to_string(volume.join("file")).unwrap(), "kept\n");
    assert!(bundle.rootfs().join("bin/busybox").exists());
}

#[test]
fn an_id_can_be_used_again_after_delete() {
    let mut bundle = bundle!();
    bundle.args(&["/bin/echo", "again"]);
    for _ in 0..2 {
        assert_eq!(bundle.run().ok().stdout(), "again\n");
    }
}

#[test]
fn ids_use_the_portable_characters_only() {
    let mut bundle = bundle!();
    bundle.args(&["/bin/true"]).write_config();
    for id in ["a/b", "..", ".", "", "a b", "a\nb", "ü"] {
        let output = bundle.call(["run", "--bundle"]).arg(bundle.path()).arg(id).output();
        assert_ne!(output.code(), 0, "{id:?} is no id");
    }
    let odd = format!("{}_A.b+c-d", bundle.id);
    bundle.call(["run", "--bundle"]).arg(bundle.path()).arg(&odd).output().ok();
}

#[test]
fn a_bundle_without_a_process_is_refused() {
    let mut bundle = bundle!();
    bundle.unset("", "process");
    bundle.create().refused(1, &["config.json: process: missing"]);
    bundle.assert_nothing_left("a bundle without a process");
}
