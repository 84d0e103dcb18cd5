//! Seccomp: calls that are really refused, killed, logged, notified. What a filter is made of is tested where it
//! is made.

use std::fs;
use std::process::{Command, Stdio};

use nix::libc;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

use crate::bundle::{Bundle, bundle, skip};
use crate::call::{Call, Running, eventually};
use crate::faults::{has_strace, under_strace};

const DOCKER: &str = include_str!("../src/plan/seccomp/fixtures/docker.json");
const PODMAN: &str = include_str!("../src/plan/seccomp/fixtures/podman.json");
const SIGSYS: i32 = 31;

/// Everything is allowed, but mkdir(2) gets `rule`.
fn with_rule(bundle: &mut Bundle, rule: Value) -> &mut Bundle {
    let mut rule = rule;
    rule["names"] = json!(["mkdir", "mkdirat"]);
    bundle.set("/root/readonly", json!(false));
    bundle.set("/linux/seccomp", json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [rule]}))
}

#[test]
fn a_shell_works_under_the_default_profiles_of_engines() {
    // Docker's refuses user namespaces, Podman's does not.
    for (profile, said) in [(DOCKER, "made\nrefused\n"), (PODMAN, "made\nunshared\n")] {
        let mut bundle = bundle!();
        bundle
            .set("/linux/seccomp", serde_json::from_str(profile).unwrap())
            .set("/root/readonly", json!(false));
        bundle.shell("mkdir /made && ls / | grep made; unshare -U echo unshared || echo refused");
        let output = bundle.run().ok();
        assert_eq!(output.stdout(), said, "{output}");
    }
}

#[test]
fn a_refused_call_returns_the_errno_of_its_rule() {
    for no_new_privileges in [true, false] {
        let mut bundle = bundle!();
        with_rule(&mut bundle, json!({"action": "SCMP_ACT_ERRNO", "errnoRet": libc::EXDEV}));
        bundle.set("/process/noNewPrivileges", json!(no_new_privileges));
        bundle.shell("mkdir /made; grep ^Seccomp: /proc/self/status");
        let output = bundle.run().ok();
        assert!(output.stderr.contains("cross-device"), "{output}");
        assert_eq!(output.stdout(), "Seccomp:\t2\n");
        assert!(!bundle.rootfs().join("made").exists());
    }
}

#[test]
fn a_process_without_privileges_is_filtered_too() {
    let mut bundle = bundle!();
    with_rule(&mut bundle, json!({"action": "SCMP_ACT_ERRNO", "errnoRet": libc::EXDEV}));
    bundle.set("/process/noNewPrivileges", json!(false));
    bundle.set("/process/user", json!({"uid": 1000, "gid": 1000})).set("/process/capabilities", json!({}));
    bundle.shell("mkdir /made");
    let output = bundle.run();
    assert!(output.stderr.contains("cross-device"), "{output}");
}

#[test]
fn a_killing_rule_kills() {
    for action in ["SCMP_ACT_KILL", "SCMP_ACT_KILL_THREAD", "SCMP_ACT_KILL_PROCESS", "SCMP_ACT_TRAP"] {
        let mut bundle = bundle!();
        with_rule(&mut bundle, json!({"action": action})).args(&["/bin/mkdir", "/made"]);
        assert_eq!(bundle.run().code(), 128 + SIGSYS, "{action}");
        assert!(!bundle.rootfs().join("made").exists());
    }
}

#[test]
fn a_logged_call_happens_and_is_in_the_kernels_log() {
    let mut bundle = bundle!();
    with_rule(&mut bundle, json!({"action": "SCMP_ACT_LOG"})).args(&["/bin/mkdir", "/made"]);
    let Some(before) = kernel_log().filter(|log| log.contains("audit:")) else {
        skip!("the kernel's log cannot be read, or has no audit messages");
    };
    if fs::read_to_string("/proc/cmdline").is_ok_and(|line| line.contains("audit=0")) {
        skip!("the kernel was started without auditing");
    }
    bundle.run().ok();
    assert!(bundle.rootfs().join("made").is_dir());
    let after = kernel_log().unwrap_or_default();
    let news = after.strip_prefix(&before).unwrap_or(&after);
    let logged = |line: &str| {
        line.contains("type=1326") && line.contains("comm=\"mkdir\"") && line.contains("code=0x7ffc0000")
    };
    assert!(news.lines().any(logged), "{news}");
}

fn kernel_log() -> Option<String> {
    let output = Command::new("dmesg").output().ok().filter(|output| output.status.success())?;
    Some(String::from_utf8_lossy(&output.stdout).into_owned())
}

#[test]
fn processes_that_join_are_under_the_same_filter() {
    let mut bundle = bundle!();
    with_rule(&mut bundle, json!({"action": "SCMP_ACT_ERRNO", "errnoRet": libc::EXDEV}));
    bundle.running();
    let output = bundle.exec(&["mkdir", "/made"]);
    assert_eq!(output.code(), 1);
    assert!(output.stderr.contains("cross-device"), "{output}");
}

#[test]
fn an_early_filter_may_refuse_what_the_runtime_asks_about_directory_and_program() {
    let names = ["chdir", "getcwd", "faccessat", "faccessat2", "access"];
    for errno in [libc::EPERM, libc::EXDEV] {
        let mut bundle = bundle!();
        let rule = json!({"names": names, "action": "SCMP_ACT_ERRNO", "errnoRet": errno});
        bundle.set("/linux/seccomp", json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [rule]}));
        bundle.set("/process/noNewPrivileges", json!(false));
        bundle.args(&["echo", "started"]);
        assert_eq!(bundle.run().ok().stdout(), "started\n");
        bundle.args(&["/etc/passwd"]);
        bundle.run().refused(1, &["permission denied"]);
    }
}

#[test]
fn under_a_late_filter_the_runtime_needs_no_more_than_the_program() {
    let mut bundle = bundle!();
    let runtime = ["execve", "exit_group", "read", "write"];
    let witness = [
        "arch_prctl",
        "brk",
        "close",
        "getrandom",
        "gettid",
        "mmap",
        "mprotect",
        "munmap",
        "newfstatat",
        "openat",
        "poll",
        "prlimit64",
        "readlink",
        "rseq",
        "rt_sigaction",
        "rt_sigprocmask",
        "sched_getaffinity",
        "set_robust_list",
        "set_tid_address",
        "sigaltstack",
    ];
    let names: Vec<&str> = runtime.into_iter().chain(witness).collect();
    bundle.set(
        "/linux/seccomp",
        json!({
            "defaultAction": "SCMP_ACT_KILL_PROCESS",
            "syscalls": [{"names": names, "action": "SCMP_ACT_ALLOW"}]
        }),
    );
    bundle.set("/process/noNewPrivileges", json!(true)).args(&["/witness", "exit", "7"]);
    let output = bundle.run();
    assert_eq!(output.code(), 7, "{output}");
}

pub struct Agent {
    process: Running,
    pub socket: String,
}

impl Agent {
    /// An agent that answers every notification with an errno.
    pub fn new(bundle: &Bundle, errno: i32) -> Agent {
        let socket = bundle.scratch().join("agent").to_str().expect("a path").to_string();
        let call = Call::new("/usr/bin/python3", &bundle.scratch());
        let call = call.args(["-c", include_str!("agent.py"), &socket, &errno.to_string()]);
        let process = call.spawn();
        eventually("the agent listens", || fs::metadata(&socket).ok());
        Agent { process, socket }
    }

    fn heard(&self) -> Vec<Value> {
        let stdout = self.process.stdout();
        stdout.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        // It may have failed by itself, which the test has noticed then.
        let _ = self.process.child.kill();
        let _ = self.process.child.wait();
    }
}

pub fn notifying(bundle: &mut Bundle, socket: &str) {
    with_rule(bundle, json!({"action": "SCMP_ACT_NOTIFY"}));
    bundle.set("/linux/seccomp/listenerPath", json!(socket));
    bundle.set("/linux/seccomp/listenerMetadata", json!("blue"));
}

pub fn has_python() -> bool {
    let python = Command::new("/usr/bin/python3").arg("--version").stdout(Stdio::null()).status();
    python.is_ok_and(|status| status.success())
}

#[test]
fn an_agent_decides_what_it_is_asked() {
    let mut bundle = bundle!();
    if !has_python() {
        skip!("python3 is not installed");
    }
    let agent = Agent::new(&bundle, libc::EXDEV);
    notifying(&mut bundle, &agent.socket);
    bundle.shell("mkdir /made; echo $?; sleep 60");
    bundle.set("/annotations", json!({"org.example.key": "a value"}));
    let created = bundle.create().ok();
    let heard = eventually("the agent hears of the container", || agent.heard().into_iter().next());
    let message = &heard["message"];
    assert_eq!(message["fds"], json!(["seccompFd"]));
    assert_eq!(message["metadata"], "blue");
    assert_eq!(message["pid"], bundle.pid());
    assert_eq!(message["state"]["id"], bundle.id.as_str());
    assert_eq!(message["state"]["status"], "creating");
    assert_eq!(message["state"]["pid"], bundle.pid());
    assert_eq!(message["state"]["bundle"], bundle.path().to_str().unwrap());
    assert_eq!(message["state"]["annotations"]["org.example.key"], "a value");
    assert!(message["ociVersion"].as_str().unwrap().starts_with("1."));

    bundle.start().ok();
    eventually("the call returns", || created.stdout().contains("1\n").then_some(()));
    let asked: Vec<Value> = agent.heard().into_iter().filter(|heard| heard.get("call").is_some()).collect();
    assert_eq!(asked.len(), 1, "{asked:?}");
    assert_eq!(asked[0]["arguments"][1], 0o777, "{asked:?}");
    assert!(!bundle.rootfs().join("made").exists());

    let output = bundle.exec(&["mkdir", "/made"]);
    assert!(output.stderr.contains("cross-device"), "{output}");
    let heard = agent.heard();
    let second =
        heard.iter().filter(|heard| heard.get("message").is_some()).nth(1).expect("a second message");
    assert_eq!(second["descriptors"], 1);
    assert_eq!(second["message"]["state"]["status"], "running");
    assert_eq!(second["message"]["state"]["pid"], bundle.pid());
    assert_ne!(second["message"]["pid"], bundle.pid());
}

/// What brings the listener to the runtime shares the descriptors of the first process, and is gone before it goes on.
#[test]
fn nothing_is_left_in_a_container_of_how_its_listener_came_out() {
    for (no_new_privileges, hook) in [(true, false), (false, false), (false, true)] {
        let mut bundle = bundle!();
        if !has_python() {
            skip!("python3 is not installed");
        }
        let agent = Agent::new(&bundle, libc::EXDEV);
        notifying(&mut bundle, &agent.socket);
        bundle.set("/process/noNewPrivileges", json!(no_new_privileges));
        if hook {
            let fails = json!([{"path": "/bin/sh", "args": ["sh", "-c", "exit 5"]}]);
            bundle.set("/hooks", json!({"startContainer": fails}));
        }
        bundle.shell("(exit 3) & wait $!; echo $?; set -- /proc/[0-9]*; echo $#");
        let created = bundle.create().ok();
        let processes = bundle.exec(&["/bin/sh", "-c", "set -- /proc/[0-9]*; echo $#"]).ok().stdout();
        assert_eq!(processes, "2\n", "the first process, and the one that counts");
        for entry in fs::read_dir(format!("/proc/{}/fd", bundle.pid())).unwrap() {
            let open = fs::read_link(entry.unwrap().path()).unwrap();
            assert!(!open.to_str().unwrap().contains("seccomp"), "{open:?}");
        }
        let started = bundle.start();
        if hook {
            started.refused(1, &["startContainer hook 0 (", "): exited with status 5"]);
        } else {
            started.ok();
            eventually("the container speaks", || (created.stdout() == "3\n1\n").then_some(()));
        }
    }
}

fn children(pid: i32) -> Vec<i32> {
    let list = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    list.split_whitespace().map(|pid| pid.parse().expect("a pid")).collect()
}

/// The call with its courier killed before it has anything to bring, refused.
fn without_its_courier(bundle: &Bundle, call: &Call, code: i32) {
    let slow =
        ["-f", "-o", "/dev/null", "-e", "trace=seccomp", "-e", "inject=seccomp:delay_enter=2000000:when=1"];
    let strace = under_strace(bundle, &slow, call).spawn();
    let below = |pids: Vec<i32>| pids.into_iter().flat_map(children).collect::<Vec<_>>();
    // The runtime, its child, and that one's.
    let courier = eventually("a courier waits", || below(below(children(strace.pid()))).pop());
    kill(Pid::from_raw(courier), Signal::SIGKILL).expect("kill the courier");
    let output = strace.wait();
    assert_eq!(output.code(), code, "{output}");
    // strace has something to say as well.
    let said: Vec<_> = output.stderr.lines().filter(|line| !line.starts_with("strace:")).collect();
    assert_eq!(
        said,
        ["linux.seccomp: who was to bring the listener out of the container was killed"],
        "{output}"
    );
}

#[test]
fn a_listener_whose_courier_is_killed_is_waited_for_by_nobody() {
    let mut bundle = bundle!();
    if !has_python() || !has_strace() {
        skip!("needs python3 and strace");
    }
    let socket = bundle.scratch().join("agent");
    notifying(&mut bundle, socket.to_str().expect("a path"));
    without_its_courier(&bundle, &bundle.birth("create", &[]), 1);
    bundle.assert_nothing_left("the refusal");
    let _agent = Agent::new(&bundle, libc::EXDEV);
    bundle.running();
    let exec = bundle.call(["exec", &bundle.id, "/bin/true"]);
    without_its_courier(&bundle, &exec, 255);
    bundle.assert_status("running");
    bundle.exec(&["/bin/true"]).ok();
}

#[test]
fn a_listener_comes_out_of_a_filter_that_allows_the_runtime_next_to_nothing() {
    let mut bundle = bundle!();
    if !has_python() {
        skip!("python3 is not installed");
    }
    let agent = Agent::new(&bundle, libc::EXDEV);
    bundle.set(
        "/linux/seccomp",
        json!({
            "defaultAction": "SCMP_ACT_KILL_PROCESS",
            "listenerPath": agent.socket,
            "syscalls": [
                {"names": ["execve", "exit_group", "read", "write"], "action": "SCMP_ACT_ALLOW"},
                {"names": ["mkdir"], "action": "SCMP_ACT_NOTIFY"},
            ]
        }),
    );
    bundle.set("/process/noNewPrivileges", json!(true)).args(&["/witness", "exit", "7"]);
    // The witness needs more than that, and is killed; it was begun.
    bundle.create().ok();
    eventually("the agent hears of the container", || agent.heard().into_iter().next());
    bundle.start().ok();
}

#[test]
fn without_an_agent_there_is_no_container() {
    let mut bundle = bundle!();
    notifying(&mut bundle, "/nonexistent/agent");
    bundle.create().refused(1, &["seccomp agent", "/nonexistent/agent"]);
    bundle.assert_nothing_left("a create without an agent");
}
