//! Terminals: the console socket, and a foreground container on a real pseudo-terminal of the test's own.

use std::fs::{File, OpenOptions};
use std::io::{IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::time::Instant;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{LocalModes, Winsize, isatty, tcgetattr, tcsetwinsize};
use serde_json::json;

use crate::bundle::{Bundle, bundle, skip};
use crate::call::{Call, DEADLINE, Running, ends, eventually};
use crate::supervision::by_shell;

/// Takes the one descriptor and the payload that a runtime sends over its socket.
#[track_caller]
pub fn receive_file(listener: &UnixListener) -> (OwnedFd, Vec<u8>) {
    wait_for(listener, "a connection");
    let (stream, _) = listener.accept().expect("accept");
    wait_for(&stream, "a message");
    let mut space = [MaybeUninit::uninit(); 256];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let mut payload = [0; 8192];
    let message =
        recvmsg(&stream, &mut [IoSliceMut::new(&mut payload)], &mut ancillary, RecvFlags::CMSG_CLOEXEC)
            .expect("receive a message");
    let mut files: Vec<OwnedFd> = ancillary
        .drain()
        .flat_map(|message| match message {
            RecvAncillaryMessage::ScmRights(files) => files.collect::<Vec<_>>(),
            _ => Vec::new(),
        })
        .collect();
    assert_eq!(files.len(), 1, "one message with one descriptor");
    (files.remove(0), payload[..message.bytes].to_vec())
}

fn wait_for(file: impl AsFd, what: &str) {
    let timeout = DEADLINE.try_into().expect("a timeout");
    let ready = poll(&mut [PollFd::new(&file, PollFlags::IN)], Some(&timeout)).expect("poll");
    assert_eq!(ready, 1, "never came: {what}");
}

/// The side of a pseudo-terminal that a human would sit at.
pub struct Screen {
    pub master: File,
    pub seen: String,
}

impl Screen {
    pub fn new(master: impl Into<OwnedFd>) -> Screen {
        Screen { master: File::from(master.into()), seen: String::new() }
    }

    /// A terminal for the runtime to run on, and the path of its other side.
    pub fn open() -> (Screen, PathBuf) {
        let master =
            openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).expect("open a pty");
        grantpt(&master).expect("grantpt");
        unlockpt(&master).expect("unlockpt");
        let name = ptsname(&master, Vec::new()).expect("ptsname").into_string().expect("a path");
        (Screen::new(master), name.into())
    }

    pub fn types(&mut self, text: &str) {
        self.master.write_all(text.as_bytes()).expect("type");
    }

    /// Reads on until the text is on the screen.
    #[track_caller]
    pub fn shows(&mut self, text: &str) {
        let start = Instant::now();
        while !self.seen.contains(text) {
            let left = DEADLINE.saturating_sub(start.elapsed()).try_into().expect("a timeout");
            let ready = poll(&mut [PollFd::new(&self.master, PollFlags::IN)], Some(&left)).expect("poll");
            let mut bytes = [0; 4096];
            // The kernel says EIO when the last one on the other side is gone.
            let count = if ready == 0 { 0 } else { self.master.read(&mut bytes).unwrap_or(0) };
            assert_ne!(count, 0, "no {text:?} on the screen: {:?}", self.seen);
            self.seen.push_str(&String::from_utf8_lossy(&bytes[..count]));
        }
    }

    fn resize(&self, rows: u16, columns: u16) {
        let size = Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
        tcsetwinsize(&self.master, size).expect("resize");
    }
}

/// Runs a call as the leader of a session on this terminal. Whoever runs the tests from a script's background has
/// signals ignored, and so would be all that it starts.
pub fn on_terminal(bundle: &Bundle, call: Call, side: &Path) -> Running {
    let open = || OpenOptions::new().read(true).write(true).open(side).expect("open the terminal");
    let words: Vec<_> = call.command.get_args().map(std::ffi::OsStr::to_os_string).collect();
    let session = Call::new("env", &bundle.scratch()).arg("--default-signal");
    let mut session = session.args(["setsid", "--ctty", "--wait"]);
    session = session.arg(call.command.get_program()).args(words).stdin(open());
    session.command.stdout(open()).stderr(open());
    session.spawn()
}

/// A created container with a terminal, and that terminal as its console socket got it.
pub fn created(bundle: &mut Bundle) -> Screen {
    bundle.set("/process/terminal", json!(true));
    let path = bundle.scratch().join("console.sock");
    let listener = UnixListener::bind(&path).expect("listen");
    bundle.birth("create", &["--console-socket", path.to_str().expect("a path")]).output().ok();
    let (master, payload) = receive_file(&listener);
    assert!((1..4096).contains(&payload.len()), "the payload is the terminal's name: {payload:?}");
    assert!(isatty(&master));
    Screen::new(master)
}

#[test]
fn the_console_socket_receives_the_terminal_of_the_process() {
    let mut bundle = bundle!();
    bundle.args(&["/witness", "report"]);
    let mut screen = created(&mut bundle);
    bundle.start().ok();
    screen.shows("}\r\n");
    let report: serde_json::Value = serde_json::from_str(&screen.seen).expect("a report");
    let terminal = &report["terminal"];
    for member in ["stdin", "stdout", "stderr", "controlling", "opens"] {
        assert_eq!(terminal[member], true, "{member}: {terminal}");
    }
    for number in ["0", "1", "2"] {
        let target = report["fds"][number].as_str().expect("a target");
        assert!(target.starts_with("/dev/pts/") || target == "/dev/console", "{target}");
    }
    let numbers = report["fds"].as_object().expect("descriptors").len();
    assert_eq!(numbers, 3, "{}", report["fds"]);
    assert_eq!(bundle.wait(), 0);
}

#[test]
fn what_is_typed_reaches_the_process_and_what_it_says_the_screen() {
    let mut bundle = bundle!();
    bundle.args(&["/bin/cat"]);
    let mut screen = created(&mut bundle);
    bundle.start().ok();
    screen.types("typed\n");
    screen.shows("typed\r\ntyped\r\n");
    // Control-D ends its input.
    screen.types("\u{4}");
    assert_eq!(bundle.wait(), 0);
}

#[test]
fn the_console_of_the_container_is_the_same_terminal() {
    let mut bundle = bundle!();
    bundle.shell(
        "/witness stat /dev/console; echo through the console > /dev/console; echo through tty > /dev/tty",
    );
    let mut screen = created(&mut bundle);
    bundle.start().ok();
    screen.shows("\"type\":\"char\"");
    screen.shows("through the console");
    screen.shows("through tty");
}

#[test]
fn the_terminal_belongs_to_the_user_of_the_process() {
    let mut bundle = bundle!();
    bundle.set("/process/user", json!({"uid": 1000, "gid": 1000}));
    bundle.shell("stat -L -c 'owner %u' /proc/self/fd/0; echo opened > /proc/self/fd/0");
    let mut screen = created(&mut bundle);
    bundle.start().ok();
    screen.shows("owner 1000");
    screen.shows("opened");
}

#[test]
fn the_terminal_has_the_configured_size_and_follows_a_resize() {
    let mut bundle = bundle!();
    bundle.set("/process/consoleSize", json!({"height": 11, "width": 111}));
    // Not waiting in a read: a signal that comes just before it would be heard after it.
    bundle.shell("trap 'stty size' WINCH; stty size; while :; do sleep 0.1; done");
    let mut screen = created(&mut bundle);
    bundle.start().ok();
    screen.shows("11 111");
    screen.resize(22, 122);
    screen.shows("22 122");
}

#[test]
fn a_terminal_without_a_console_socket_is_refused_by_create() {
    let mut bundle = bundle!();
    bundle.set("/process/terminal", json!(true));
    bundle.create().refused(1, &["console"]);
    bundle.assert_nothing_left("create");
    bundle.birth("run", &["--detach"]).output().refused(1, &["console"]);
}

#[test]
fn a_console_socket_without_a_terminal_is_refused() {
    let bundle = bundle!();
    let path = bundle.scratch().join("console.sock");
    let _listener = UnixListener::bind(&path).expect("listen");
    bundle
        .birth("create", &["--console-socket", path.to_str().expect("a path")])
        .output()
        .refused(1, &["console-socket"]);
}

#[test]
fn a_console_socket_that_nobody_listens_on_is_refused() {
    let mut bundle = bundle!();
    bundle.set("/process/terminal", json!(true));
    bundle
        .birth("create", &["--console-socket", "/no/such/socket"])
        .output()
        .refused(1, &["/no/such/socket"]);
    bundle.assert_nothing_left("create");
}

#[test]
fn a_foreground_container_uses_the_terminal_of_the_caller() {
    let mut bundle = bundle!();
    bundle.set("/process/terminal", json!(true));
    bundle.shell("tty; read line; echo \"got $line\"; exit 5");
    let (mut screen, side) = Screen::open();
    let running = on_terminal(&bundle, bundle.birth("run", &[]), &side);
    screen.shows("/dev/");
    screen.types("a line\r");
    screen.shows("got a line");
    assert_eq!(running.wait().code(), 5);
}

#[test]
fn the_callers_terminal_is_raw_while_the_container_runs_and_as_before_after_it() {
    let mut bundle = bundle!();
    bundle.set("/process/terminal", json!(true));
    bundle.shell("echo ready; read line");
    let (mut screen, side) = Screen::open();
    let cooked = |screen: &Screen| {
        tcgetattr(&screen.master)
            .expect("tcgetattr")
            .local_modes
            .contains(LocalModes::ICANON | LocalModes::ECHO)
    };
    assert!(cooked(&screen));
    let running = on_terminal(&bundle, bundle.birth("run", &[]), &side);
    screen.shows("ready");
    eventually("the terminal is raw", || (!cooked(&screen)).then_some(()));
    screen.types("\r");
    running.wait().ok();
    assert!(cooked(&screen), "the modes were not put back");
}

#[test]
fn control_c_interrupts_the_process_and_not_the_runtime() {
    let mut bundle = bundle!();
    bundle.set("/process/terminal", json!(true));
    bundle.shell("trap 'echo interrupted; exit 6' INT; echo ready; while :; do sleep 1; done");
    let (mut screen, side) = Screen::open();
    let running = on_terminal(&bundle, bundle.birth("run", &[]), &side);
    screen.shows("ready");
    screen.types("\u{3}");
    screen.shows("interrupted");
    assert_eq!(running.wait().code(), 6);
}

#[test]
fn the_process_follows_the_size_of_the_callers_terminal() {
    let line = "trap 'stty size' WINCH; stty size; while :; do sleep 1; done";
    for exec in [false, true] {
        let mut bundle = bundle!();
        let (mut screen, side) = Screen::open();
        screen.resize(33, 133);
        let call = if exec {
            bundle.running();
            bundle.call(["exec", "--tty", &bundle.id, "/bin/sh", "-c", line])
        } else {
            bundle.set("/process/terminal", json!(true)).shell(line);
            bundle.birth("run", &[])
        };
        let running = on_terminal(&bundle, call, &side);
        screen.shows("33 133");
        screen.resize(44, 144);
        screen.shows("44 144");
        bundle.kill("KILL").ok();
        assert_eq!(running.wait().code(), 128 + 9);
    }
}

#[test]
fn exec_with_a_terminal_uses_that_of_the_caller() {
    let mut bundle = bundle!();
    bundle.running();
    let (mut screen, side) = Screen::open();
    screen.resize(25, 99);
    let exec = bundle.call(["exec", "--tty", &bundle.id, "/bin/sh", "-c", "tty; stty size; exit 4"]);
    let running = on_terminal(&bundle, exec, &side);
    screen.shows("/dev/pts/");
    screen.shows("25 99");
    assert_eq!(running.wait().code(), 4);
}

#[test]
fn a_detached_exec_sends_its_terminal_to_the_console_socket() {
    let mut bundle = bundle!();
    bundle.running();
    let path = bundle.scratch().join("exec.sock");
    let listener = UnixListener::bind(&path).expect("listen");
    let options = ["--tty", "--console-socket", path.to_str().expect("a path")];
    bundle.exec_detached(&options, &["/bin/sh", "-c", "echo from exec; read line"]);
    let (master, _) = receive_file(&listener);
    let mut screen = Screen::new(master);
    screen.shows("from exec");
    screen.types("\n");
}

#[test]
fn the_terminal_survives_its_creator() {
    let mut bundle = bundle!();
    bundle.shell("read line; echo \"after $line\"");
    let mut screen = created(&mut bundle);
    bundle.start().ok();
    screen.types("start\n");
    screen.shows("after start");
}

#[test]
fn the_end_of_a_pipe_is_the_end_of_input() {
    for (input, said) in [("one\ntwo\n", "two"), ("unfinished", "unfinished"), ("", "")] {
        let mut bundle = bundle!();
        bundle.set("/process/terminal", json!(true));
        bundle.shell("stty -echo; cat; echo end");
        let (reader, mut writer) = std::io::pipe().expect("make a pipe");
        writer.write_all(input.as_bytes()).expect("write");
        drop(writer);
        let output = bundle.birth("run", &[]).stdin(reader).output().ok();
        assert!(output.stdout().contains(said) && output.stdout().ends_with("end\r\n"), "{output}");
    }
}

#[test]
fn nothing_that_was_written_before_the_end_is_lost() {
    let mut bundle = bundle!();
    bundle.set("/process/terminal", json!(true));
    bundle.shell("i=0; while [ $i -lt 20000 ]; do echo line $i; i=$((i+1)); done; exit 7");
    let output = bundle.run();
    assert_eq!(output.code(), 7, "{}", output.stderr);
    let text = output.stdout();
    assert_eq!(text.lines().count(), 20000);
    assert!(text.ends_with("line 19999\r\n"));
}

#[test]
fn a_container_is_none_the_worse_for_output_that_has_no_room_and_input_that_is_a_directory() {
    let mut bundle = bundle!();
    bundle.set("/process/terminal", json!(true)).shell("echo one; sleep 0.5; echo two; exit 5");
    let output = by_shell(&bundle, "exec \"$@\" >/dev/full </", &bundle.birth("run", &[])).output();
    assert_eq!(output.code(), 5, "{output}");
    bundle.assert_nothing_left("a container whose output had no room");
}

#[test]
fn a_long_paste_arrives_whole() {
    let mut bundle = bundle!();
    bundle.set("/process/terminal", json!(true));
    bundle.shell("stty -echo; echo ready; sleep 0.2; wc -l; stty sane");
    let (mut screen, side) = Screen::open();
    let running = on_terminal(&bundle, bundle.birth("run", &[]), &side);
    screen.shows("ready");
    screen.types(&"as long as a line that somebody pastes into a shell may well be\r".repeat(3000));
    screen.types("\u{4}");
    screen.shows("3000");
    running.wait().ok();
}

#[test]
fn the_terminal_is_as_before_whatever_ends_the_container() {
    for signal in [Signal::SIGTERM, Signal::SIGHUP, Signal::SIGINT, Signal::SIGQUIT] {
        let mut bundle = bundle!();
        bundle.set("/process/terminal", json!(true)).drop_namespace("pid");
        bundle.shell("echo ready; exec sleep 60");
        let (mut screen, side) = Screen::open();
        let running = on_terminal(&bundle, bundle.birth("run", &[]), &side);
        screen.shows("ready");
        // A shell would keep an interrupt from the program that it is about to become.
        eventually("it sleeps", || {
            let words = std::fs::read_to_string(format!("/proc/{}/cmdline", bundle.pid())).ok()?;
            words.starts_with("sleep").then_some(())
        });
        // The one that stays for the container; its parent is setsid(1).
        let runtime = crate::shell::parent_of(bundle.pid());
        kill(Pid::from_raw(runtime), signal).expect("signal the runtime");
        assert_eq!(running.wait().code(), 128 + signal as i32, "{signal}");
        let modes = tcgetattr(&screen.master).expect("tcgetattr").local_modes;
        assert!(modes.contains(LocalModes::ICANON | LocalModes::ECHO), "{signal}");
        bundle.assert_nothing_left("a run that was told to end");
    }
}

#[test]
fn a_screen_that_nobody_reads_does_not_keep_signals_from_the_process() {
    let mut bundle = bundle!();
    bundle.set("/process/terminal", json!(true));
    // Not the first of a pid namespace, so that the signal ends it.
    bundle.drop_namespace("pid").shell("while :; do echo yes yes yes; done");
    let (reader, writer) = std::io::pipe().expect("make a pipe");
    let mut call = bundle.birth("run", &[]);
    call.command.stdout(writer);
    let running = call.spawn();
    eventually("the container runs", || {
        let state = bundle.verb("state", &[]);
        (state.code() == 0 && state.json()["status"] == "running").then_some(())
    });
    // Time to fill the pipe; whatever it needs, the signals must get through.
    std::thread::sleep(std::time::Duration::from_millis(100));
    // One ends the process, the next a runtime that waits to pass on the last words.
    eventually("it ends", || {
        kill(Pid::from_raw(running.pid()), Signal::SIGTERM).expect("signal the runtime");
        ends(running.pid(), std::time::Duration::from_millis(100)).then_some(())
    });
    assert_eq!(running.wait().code(), 128 + 15);
    drop(reader);
}

#[test]
fn a_terminal_that_is_closed_can_be_opened_again() {
    let mut bundle = bundle!();
    bundle.set("/process/terminal", json!(true));
    bundle.shell("exec 3</dev/null; exec </dev/null >/dev/null 2>&1; sleep 0.2; exec >/dev/console; echo back; sleep 0.2");
    assert_eq!(bundle.run().ok().stdout(), "back\r\n");
}

#[test]
fn a_container_that_cannot_start_leaves_the_terminal_as_it_was() {
    let mut bundle = bundle!();
    bundle.set("/process/terminal", json!(true));
    bundle.set("/hooks/startContainer", json!([{"path": "/bin/false"}]));
    let (screen, side) = Screen::open();
    let running = on_terminal(&bundle, bundle.birth("run", &[]), &side);
    assert_eq!(running.wait().code(), 1);
    assert!(tcgetattr(&screen.master).expect("tcgetattr").local_modes.contains(LocalModes::ICANON));
    bundle.assert_nothing_left("a run that failed");
}

#[test]
fn the_terminal_has_the_callers_size_from_the_start() {
    for exec in [false, true] {
        let mut bundle = bundle!();
        let (mut screen, side) = Screen::open();
        screen.resize(31, 97);
        let call = if exec {
            bundle.running();
            bundle.call(["exec", "--tty", &bundle.id, "/bin/stty", "size"])
        } else {
            bundle.set("/process/terminal", json!(true)).args(&["/bin/stty", "size"]);
            bundle.birth("run", &[])
        };
        let running = on_terminal(&bundle, call, &side);
        screen.shows("31 97");
        assert_eq!(running.wait().code(), 0);
    }
}
