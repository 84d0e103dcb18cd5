//! Descriptors: what a process finds open, what is passed on to it, and what must never be.

use std::fs;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixListener;

use serde_json::{Value, json};

use crate::bundle::{Bundle, bundle, skip};
use crate::call::Call;
use crate::terminal::receive_file;

#[test]
fn nothing_but_stdio_is_open_in_the_process() {
    // CVE-2024-21626: any descriptor of the runtime is a door to the host.
    let mut bundle = bundle!();
    let report = bundle.report();
    let numbers: Vec<&String> = report["fds"].as_object().unwrap().keys().collect();
    assert_eq!(numbers, ["0", "1", "2"], "{}", report["fds"]);
}

#[test]
fn descriptors_of_the_caller_do_not_reach_the_process() {
    let mut bundle = bundle!();
    bundle.args(&["/witness", "fd-list"]);
    let call = bundle.birth("run", &[]);
    let open = with_files(&bundle, call, "3</etc/passwd 5</etc/group 9</");
    let fds = open.output().ok().json();
    assert_eq!(fds.as_object().unwrap().len(), 3, "{fds}");
}

/// The same call from a shell that opened some files before.
pub fn with_files(bundle: &Bundle, call: Call, redirections: &str) -> Call {
    let words: Vec<_> = call.command.get_args().map(std::ffi::OsStr::to_os_string).collect();
    // The pid stays that of the shell, which is what LISTEN_PID has to name.
    let line = format!("export LISTEN_PID=$$; exec \"$0\" \"$@\" {redirections}");
    Call::new("/bin/sh", &bundle.scratch()).arg("-c").arg(line).arg(call.command.get_program()).args(words)
}

#[test]
fn preserved_descriptors_reach_the_process() {
    let mut bundle = bundle!();
    bundle.args(&["/witness", "fd-list"]);
    let call = bundle.birth("run", &["--preserve-fds", "2"]);
    let fds = with_files(&bundle, call, "3</etc/passwd 4</etc/group 5</etc/hostname").output().ok().json();
    let numbers: Vec<&String> = fds.as_object().unwrap().keys().collect();
    assert_eq!(numbers, ["0", "1", "2", "3", "4"], "{fds}");
    assert!(fds["3"].as_str().unwrap().ends_with("/etc/passwd"), "{fds}");
}

#[test]
fn a_descriptor_to_preserve_must_be_open() {
    let mut bundle = bundle!();
    bundle.args(&["/bin/true"]);
    bundle.birth("run", &["--preserve-fds", "3"]).output().refused(1, &["preserve"]);
}

#[test]
fn sockets_of_listen_fds_come_before_the_preserved_ones() {
    let mut bundle = bundle!();
    bundle.args(&["/bin/sh", "-c", "env | grep LISTEN | sort; /witness fd-list"]);
    let call = bundle.birth("run", &["--preserve-fds", "1"]);
    let call = with_files(&bundle, call, "3</etc/passwd 4</etc/group 5</etc/hostname");
    let call = call.env("LISTEN_FDS", "1").env("LISTEN_FDNAMES", "web");
    let output = call.output().ok().stdout();
    let lines: Vec<&str> = output.lines().collect();
    assert_eq!(lines[..3], ["LISTEN_FDNAMES=web", "LISTEN_FDS=1", "LISTEN_PID=1"], "{output}");
    let fds: Value = serde_json::from_str(lines[3]).unwrap();
    assert!(fds.get("3").is_some() && fds.get("4").is_some() && fds.get("5").is_none(), "{fds}");
}

#[test]
fn closed_stdio_of_the_caller_is_no_door() {
    let mut bundle = bundle!();
    bundle.shell("readlink /proc/self/fd/0 /proc/self/fd/1 > /tmp/fds; true");
    bundle.mount(json!({"destination": "/tmp", "source": bundle.scratch(), "options": ["bind"]}));
    let call = bundle.birth("run", &[]);
    with_files(&bundle, call, "0<&- 1>&- 2>&-").output().ok();
    let seen = fs::read_to_string(bundle.scratch().join("fds")).unwrap();
    for target in seen.lines() {
        assert!(target == "/dev/null" || target.starts_with("/tmp/fds"), "{seen}");
    }
}

#[test]
fn the_pidfd_socket_receives_a_pidfd_of_init() {
    let mut bundle = bundle!();
    bundle.args(&["/witness", "exit", "9"]);
    let path = bundle.scratch().join("pidfd.sock");
    let listener = UnixListener::bind(&path).unwrap();
    bundle.birth("create", &["--pidfd-socket", path.to_str().unwrap()]).output().ok();
    let (pidfd, payload) = receive_file(&listener);
    assert!(payload.len() < 4096);
    let info = fs::read_to_string(format!("/proc/self/fdinfo/{}", pidfd.as_raw_fd()));
    let pid = format!("Pid:\t{}\n", bundle.pid());
    assert!(info.as_ref().unwrap().contains(&pid), "{info:?}");
}

/// Everything that a process has open, by number, and what it is: followed, as whoever may look would follow it.
fn open_in(pid: i32) -> Vec<(String, fs::Metadata)> {
    let list = fs::read_dir(format!("/proc/{pid}/fd")).unwrap();
    let entries = list.map(|entry| entry.unwrap());
    entries
        .map(|entry| {
            let target = fs::read_link(entry.path()).unwrap();
            (format!("{:?} {target:?}", entry.file_name()), fs::metadata(entry.path()).unwrap())
        })
        .collect()
}

#[test]
fn an_init_that_waits_has_nothing_of_the_host_open() {
    // Whoever has CAP_SYS_PTRACE in the same pid namespace can use what init has open.
    for terminal in [false, true] {
        let mut bundle = bundle!();
        let listener = UnixListener::bind(bundle.scratch().join("console")).unwrap();
        let console = bundle.scratch().join("console");
        let options: &[&str] = if terminal { &["--console-socket", console.to_str().unwrap()] } else { &[] };
        bundle.set("/process/terminal", json!(terminal));
        bundle.mount(json!({"destination": "/mnt", "source": "/tmp", "options": ["bind", "ro"]}));
        let log = bundle.scratch().join("log");
        bundle.write_config();
        let call = bundle.call(["--log"]).arg(&log).arg("create").arg("--bundle").arg(bundle.path());
        let call = call.arg("--pid-file").arg(bundle.pid_file()).args(options).arg(&bundle.id);
        with_files(&bundle, call, "7</ 8</proc").output().ok();
        let mut others = Vec::new();
        for (what, metadata) in open_in(bundle.pid()) {
            use std::os::unix::fs::FileTypeExt;
            assert!(!metadata.is_dir(), "{what}");
            assert!(!what.contains("/log"), "{what}");
            let kind = metadata.file_type();
            if (kind.is_fifo() || kind.is_socket()) && !what.contains("memfd") {
                others.push(what);
            }
        }
        // The gate and the conversation.
        assert_eq!(others.len(), 3, "{others:?}");
        drop(listener);
    }
}

#[test]
fn only_who_may_trace_sees_what_a_waiting_init_has_open() {
    let mut bundle = bundle!();
    bundle.args(&["/witness", "report"]);
    bundle.create().ok();
    let line = "for fd in /proc/1/fd/*; do echo $fd; readlink $fd && cat $fd; done; readlink /proc/1/cwd /proc/1/exe";
    let seen = bundle.exec(&["/bin/sh", "-c", line]).stdout();
    assert!(seen.lines().count() > 3 && seen.lines().all(|line| line.starts_with("/proc/1/fd/")), "{seen}");
}

#[test]
fn sockets_that_were_not_for_exec_do_not_stop_it() {
    let mut bundle = bundle!();
    bundle.running();
    let call = bundle.call(["exec", &bundle.id, "/bin/true"]);
    call.env("LISTEN_FDS", "3").env("LISTEN_PID", "1").output().ok();
}

#[test]
fn more_descriptors_than_there_can_be_are_refused() {
    for count in ["1", "100000"] {
        let bundle = bundle!();
        bundle.birth("create", &["--preserve-fds", count]).output().refused(1, &["is not open"]);
        let call = bundle.birth("create", &["--preserve-fds", count]).env("LISTEN_FDS", "4294967295");
        call.output().refused(1, &["is not open"]);
    }
}
