//! A person's shell: job control inside a container and around one, and a window that is closed.

use std::path::PathBuf;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rustix::termios::{OutputModes, tcgetattr};
use serde_json::json;

use crate::bundle::{Bundle, bundle, skip};
use crate::call::{Call, Running, eventually};
use crate::terminal::{Screen, on_terminal};

#[test]
fn a_terminal_that_hangs_up_is_the_end_of_that_of_the_container() {
    for exec in [false, true] {
        let mut bundle = bundle!();
        bundle.set("/root/readonly", json!(false));
        // The first process of a pid namespace gets no SIGHUP that it does not ask for.
        let line = "echo ready; cat; echo survived > /file";
        let (mut screen, side) = Screen::open();
        let call = if exec {
            bundle.running();
            bundle.call(["exec", "--tty", &bundle.id, "/bin/sh", "-c", &format!("trap '' HUP; {line}")])
        } else {
            bundle.set("/process/terminal", json!(true)).shell(line);
            bundle.birth("run", &[])
        };
        let running = on_terminal(&bundle, call, &side);
        screen.shows("ready");
        drop(screen);
        eventually("the process goes on", || bundle.rootfs().join("file").exists().then_some(()));
        running.wait();
    }
}

#[test]
fn a_run_in_the_background_leaves_the_terminal_alone_until_it_is_in_the_foreground() {
    let mut bundle = bundle!();
    bundle.set("/process/terminal", json!(true)).shell("echo ready; read line; echo \"got $line\"; exit 5");
    let (mut screen, shell) = in_bash(&bundle, bundle.birth("run", &[]), "&");
    eventually("it has stopped", || {
        let pid = parent_of_status(bundle.pid_file())?;
        (status_of(pid).first()? == "T").then_some(())
    });
    let modes = |screen: &Screen| tcgetattr(&screen.master).expect("tcgetattr").output_modes;
    assert!(modes(&screen).contains(OutputModes::OPOST), "the shell's terminal is raw");
    screen.types("fg\r");
    screen.shows("ready");
    screen.types("a line\r");
    screen.shows("got a line");
    // What is typed before that is the container's.
    eventually("the shell is back", || (bundle.verb("state", &[]).code() == 1).then_some(()));
    screen.types("exit $?\r");
    assert_eq!(shell.wait().code(), 5);
}

/// A person's shell on a terminal, in which a call is typed.
fn in_bash(bundle: &Bundle, call: Call, end: &str) -> (Screen, Running) {
    let words: Vec<_> = call.command.get_args().map(|word| word.to_str().expect("a word")).collect();
    let line = format!("{} {} {end}\r", call.command.get_program().display(), words.join(" "));
    let (mut screen, side) = Screen::open();
    let bash = Call::new("bash", &bundle.scratch()).args(["--norc", "--noprofile", "-i"]);
    let shell = on_terminal(bundle, bash, &side);
    screen.types(&line);
    (screen, shell)
}

#[test]
fn a_runtime_that_was_stopped_takes_the_terminal_again_when_it_goes_on() {
    let mut bundle = bundle!();
    bundle.set("/process/terminal", json!(true)).shell("echo ready; read line; echo \"got $line\"; exit 6");
    let (mut screen, shell) = in_bash(&bundle, bundle.birth("run", &[]), "");
    screen.shows("ready");
    let runtime = Pid::from_raw(parent_of(bundle.pid()));
    kill(runtime, Signal::SIGSTOP).expect("stop the runtime");
    screen.shows("Stopped");
    screen.types("fg\r");
    let is_raw = || !tcgetattr(&screen.master).expect("tcgetattr").output_modes.contains(OutputModes::OPOST);
    eventually("the terminal is raw again", || is_raw().then_some(()));
    screen.types("a line\r");
    screen.shows("got a line");
    eventually("the shell is back", || (bundle.verb("state", &[]).code() == 1).then_some(()));
    screen.types("exit $?\r");
    assert_eq!(shell.wait().code(), 6);
}

/// Whose child the process is that a pid file names, once there is one.
fn parent_of_status(pid_file: PathBuf) -> Option<i32> {
    let pid = std::fs::read_to_string(pid_file).ok()?.parse().ok()?;
    status_of(pid).get(1)?.parse().ok()
}

#[test]
fn an_interactive_shell_has_job_control() {
    let mut bundle = bundle!();
    bundle.set("/process/terminal", json!(true)).args(&["/bin/sh"]);
    let (mut screen, side) = Screen::open();
    let running = on_terminal(&bundle, bundle.birth("run", &[]), &side);
    screen.types("sleep 60\r");
    screen.shows("sleep 60\r\n");
    eventually("it runs", || bundle.verb("ps", &[]).stdout().contains("sleep 60").then_some(()));
    screen.types("\u{1a}");
    screen.shows("Stopped");
    screen.types("fg\r");
    eventually("it goes on in the foreground", || {
        bundle.traces().processes.into_iter().any(is_foreground_sleep).then_some(())
    });
    screen.types("\u{3}exit 3\r");
    assert!(!screen.seen.contains("job control"), "{}", screen.seen);
    assert_eq!(running.wait().code(), 3);
}

/// What follows a process's name (proc_pid_stat(5)): its state, parent, group, session, terminal and that one's group.
fn status_of(pid: i32) -> Vec<String> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").map(|(_, rest)| rest.split(' ').map(String::from).collect()).unwrap_or_default()
}

pub fn parent_of(pid: i32) -> i32 {
    status_of(pid)[1].parse().expect("a pid")
}

/// `sleep 60` that is not stopped, in the group that the terminal listens to.
fn is_foreground_sleep(pid: i32) -> bool {
    let sleeps = std::fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|words| words == b"sleep\x0060\0");
    matches!(&status_of(pid)[..], [state, _, group, _, _, foreground, ..] if sleeps && state == "S" && group == foreground)
}
