//! Faults, made to order: the runtime killed at a system call, and system calls that fail. strace(1) injects them into
//! the runtime alone; what it clones goes on undisturbed, as it would behind a runtime that died.

use std::collections::HashMap;
use std::ffi::OsString;
use std::fs;
use std::process::Command;

use serde_json::json;

use crate::bundle::{Bundle, bundle, skip};
use crate::call::{Call, Output, affordable};

/// How many of a command's system calls are tried in one run in the virtual machine.
const POINTS: usize = 60;

/// Of no interest: memory, the C library's own, and what says goodbye.
/// The kernel does not let the ids of a process be unknown.
const PLAIN: &[&str] = &[
    "arch_prctl",
    "brk",
    // Only where the clock needs the kernel (hpet); Rust's standard library takes it for one that cannot fail.
    "clock_gettime",
    "close",
    "execve",
    "execveat",
    "exit_group",
    "futex",
    "getegid",
    "geteuid",
    "getpid",
    "getrandom",
    "madvise",
    "mmap",
    "mprotect",
    "mremap",
    "munmap",
    "poll",
    "prlimit64",
    "rseq",
    "rt_sigaction",
    "rt_sigprocmask",
    "sched_getaffinity",
    "set_robust_list",
    "set_tid_address",
    "sigaltstack",
];

/// The n-th call of this name.
type Point = (String, usize);

pub fn has_strace() -> bool {
    Command::new("strace").arg("-V").output().is_ok_and(|output| output.status.success())
}

/// The same call, traced.
pub fn under_strace(bundle: &Bundle, options: &[&str], call: &Call) -> Call {
    let words: Vec<OsString> = call.command.get_args().map(OsString::from).collect();
    Call::new("strace", &bundle.scratch())
        .args(["-qq"])
        .args(options)
        .arg(call.command.get_program())
        .args(words)
}

fn points(bundle: &Bundle, call: &Call) -> Vec<Point> {
    affordable(all_points(bundle, call), POINTS)
}

/// System calls of the runtime's own, from its start in the sealed copy on.
fn all_points(bundle: &Bundle, call: &Call) -> Vec<Point> {
    let list = bundle.scratch().join("strace");
    under_strace(bundle, &["-o", list.to_str().unwrap()], call).output().ok();
    let text = fs::read_to_string(list).unwrap();
    let mut counts: HashMap<&str, usize> = HashMap::new();
    let mut found = Vec::new();
    for line in text.lines() {
        let Some((name, _)) = line.split_once('(') else { continue };
        let count = counts.entry(name).or_default();
        *count += 1;
        if name == "execveat" {
            found.clear();
        }
        if !PLAIN.contains(&name) {
            found.push((name.to_string(), *count));
        }
    }
    assert!(found.len() > 10, "{text}");
    found
}

/// The call with a fault at one point. None if it did not come that far, and then it went well: how often the kernel is
/// asked whether a group is empty, or still, is another number each time.
#[track_caller]
fn disturbed(bundle: &Bundle, (name, number): &Point, fault: &str, call: Call) -> Option<Output> {
    let inject = format!("inject={name}:{fault}:when={number}");
    let trace = format!("trace={name}");
    let list = bundle.scratch().join("strace");
    let options = ["-o", list.to_str().unwrap(), "-e", &trace, "-e", &inject];
    let output = under_strace(bundle, &options, &call).output();
    let calls = fs::read_to_string(list).unwrap().lines().filter(|line| line.starts_with(name)).count();
    if calls < *number {
        output.ok();
        return None;
    }
    Some(output)
}

/// A container with something of every kind to be undone: hooks, a bind mount, a group with limits.
fn demanding(bundle: &mut Bundle) {
    // The state root is there from now on, and no later create makes it.
    bundle.create().ok();
    bundle.delete().ok();
    bundle.wait();
    bundle.args(&["/bin/sleep", "60"]);
    bundle.set("/hooks/createRuntime", json!([{"path": "/bin/true"}]));
    bundle.set("/linux/resources/pids/limit", json!(64));
    let source = bundle.scratch();
    bundle.mount(json!({"destination": "/mnt", "source": source, "options": ["rbind"]}));
}

#[test]
fn a_create_killed_at_any_system_call_leaves_what_delete_by_force_removes() {
    let mut bundle = bundle!();
    if !has_strace() {
        skip!("needs strace");
    }
    demanding(&mut bundle);
    let points = points(&bundle, &bundle.birth("create", &[]));
    bundle.verb("delete", &["--force"]).ok();
    for point in points {
        if let Some(output) = disturbed(&bundle, &point, "signal=KILL", bundle.birth("create", &[])) {
            assert_eq!(output.code(), 128 + 9, "{point:?}: {output}");
        }
        bundle.verb("delete", &["--force"]).ok();
        bundle.assert_nothing_left(&format!("killed at {point:?}, then deleted: it"));
    }
}

#[test]
fn a_create_whose_system_call_fails_says_so_in_one_line_and_leaves_nothing() {
    let mut bundle = bundle!();
    if !has_strace() {
        skip!("needs strace");
    }
    demanding(&mut bundle);
    let points = points(&bundle, &bundle.birth("create", &[]));
    bundle.verb("delete", &["--force"]).ok();
    for point in points {
        match disturbed(&bundle, &point, "error=EIO", bundle.birth("create", &[])) {
            Some(output) if output.code() != 0 => drop(output.refused(1, &[])),
            // A call that it can do without; then the container is whole.
            _ => {
                bundle.start().ok();
                assert_eq!(bundle.state()["status"], "running", "EIO at {point:?}");
                bundle.verb("delete", &["--force"]).ok();
            }
        }
        bundle.assert_nothing_left(&format!("EIO at {point:?}"));
    }
}

#[test]
fn an_exec_whose_system_call_fails_leaves_the_container_as_it_was() {
    let mut bundle = bundle!();
    if !has_strace() {
        skip!("needs strace");
    }
    bundle.running();
    let exec = |bundle: &Bundle| bundle.call(["exec", &bundle.id, "/bin/true"]);
    let points = points(&bundle, &exec(&bundle));
    for point in points {
        if let Some(output) = disturbed(&bundle, &point, "error=EIO", exec(&bundle))
            && output.code() != 0
        {
            output.refused(255, &[]);
        }
        crate::call::eventually("only init is left", || {
            let pids = bundle.verb("ps", &["--format", "json"]).ok().json();
            (pids == json!([bundle.pid()])).then_some(())
        });
    }
}

/// A command that changes a container in this state, disturbed at each of its system calls in turn.
fn disturb_each(verb: &str, words: &[&str], running: bool) {
    let mut bundle = bundle!();
    if !has_strace() {
        skip!("needs strace");
    }
    demanding(&mut bundle);
    let call = |bundle: &Bundle| {
        let (before, after) = words.split_at(words.iter().take_while(|word| word.starts_with("--")).count());
        bundle.call([verb]).args(before).arg(&bundle.id).args(after)
    };
    let prepare = |bundle: &Bundle| {
        bundle.create().ok();
        if running {
            bundle.start().ok();
        }
    };
    let clear = |bundle: &Bundle| {
        bundle.verb("delete", &["--force"]).ok();
        bundle.wait();
        fs::remove_file(bundle.pid_file()).unwrap();
    };
    prepare(&bundle);
    let points = points(&bundle, &call(&bundle));
    clear(&bundle);
    for fault in ["signal=KILL", "error=EIO"] {
        for point in &points {
            prepare(&bundle);
            match disturbed(&bundle, point, fault, call(&bundle)) {
                Some(output) if fault == "signal=KILL" => {
                    assert_eq!(output.code(), 128 + 9, "{point:?}: {output}");
                }
                Some(output) if output.code() != 0 => drop(output.refused(1, &[])),
                // A call that it can do without; then it has done what it was to do.
                _ if verb == "start" => bundle.assert_status("running"),
                _ => assert_eq!(bundle.wait(), 128 + 9, "{fault} at {point:?}"),
            }
            bundle.verb("delete", &["--force"]).ok();
            bundle.reap_orphans();
            bundle.assert_nothing_left(&format!("{verb} with {fault} at {point:?}"));
        }
    }
}

#[test]
fn a_start_disturbed_at_any_system_call_leaves_what_delete_by_force_removes() {
    disturb_each("start", &[], false);
}

#[test]
fn a_kill_disturbed_at_any_system_call_leaves_what_delete_by_force_removes() {
    disturb_each("kill", &["KILL"], true);
}

#[test]
fn a_delete_disturbed_at_any_system_call_can_be_repeated() {
    disturb_each("delete", &["--force"], true);
}

#[test]
fn an_exec_killed_at_any_system_call_leaves_the_container_as_it_was() {
    let mut bundle = bundle!();
    if !has_strace() {
        skip!("needs strace");
    }
    bundle.running();
    let exec = |bundle: &Bundle| bundle.call(["exec", &bundle.id, "/bin/true"]);
    for point in points(&bundle, &exec(&bundle)) {
        if let Some(output) = disturbed(&bundle, &point, "signal=KILL", exec(&bundle)) {
            assert_eq!(output.code(), 128 + 9, "{point:?}: {output}");
        }
        crate::call::eventually("only init is left", || {
            bundle.reap_orphans();
            let pids = bundle.verb("ps", &["--format", "json"]).ok().json();
            (pids == json!([bundle.pid()])).then_some(())
        });
        bundle.exec(&["/bin/true"]).ok();
    }
}

#[test]
fn a_delete_killed_at_any_system_call_can_be_repeated() {
    let mut bundle = bundle!();
    if !has_strace() {
        skip!("needs strace");
    }
    demanding(&mut bundle);
    bundle.create().ok();
    let delete = |bundle: &Bundle| bundle.call(["delete", "--force", &bundle.id]);
    for point in points(&bundle, &delete(&bundle)) {
        bundle.create().ok();
        disturbed(&bundle, &point, "signal=KILL", delete(&bundle));
        delete(&bundle).output().ok();
        bundle.assert_nothing_left(&format!("delete killed at {point:?}, then repeated,"));
    }
}

#[test]
fn a_birth_that_fails_on_its_way_through_other_namespaces_leaves_nothing() {
    let mut host = bundle!();
    if !has_strace() {
        skip!("needs strace");
    }
    host.running();
    // A new user namespace has no right to join these, so the runtime itself goes there and comes back.
    let mut bundle = Bundle::new();
    crate::namespaces::map_users(&mut bundle);
    for (kind, file) in [("network", "net"), ("ipc", "ipc"), ("uts", "uts"), ("pid", "pid")] {
        bundle.add_namespace(json!({"type": kind, "path": format!("/proc/{}/ns/{file}", host.pid())}));
    }
    bundle.unset("", "hostname");
    bundle.mount(json!({"destination": "/mnt", "source": "/tmp", "options": ["bind"]}));
    forget_views(&mut bundle);
    demanding(&mut bundle);
    let interesting = |point: &Point| ["setns", "clone3", "openat", "read"].contains(&point.0.as_str());
    let points = all_points(&bundle, &bundle.birth("create", &[]));
    bundle.verb("delete", &["--force"]).ok();
    bundle.wait();
    let points: Vec<Point> = points.into_iter().filter(interesting).collect();
    assert!(points.iter().filter(|point| point.0 == "setns").count() >= 8, "{points:?}");
    for point in points {
        match disturbed(&bundle, &point, "error=EIO", bundle.birth("create", &[])) {
            Some(output) if output.code() != 0 => drop(output.refused(1, &[])),
            _ => {
                bundle.verb("delete", &["--force"]).ok();
                // It was a child of the test's, and until somebody waits for it the pid namespace that it joined stays.
                bundle.wait();
            }
        }
        bundle.assert_nothing_left(&format!("EIO at {point:?}"));
    }
}

/// Of a network or a pid namespace that is another's, a user namespace gets no new sysfs and procfs.
fn forget_views(bundle: &mut Bundle) {
    let mounts = bundle.config["mounts"].as_array_mut().expect("mounts");
    mounts.retain(|mount| {
        !["/sys", "/dev/mqueue", "/proc", "/sys/fs/cgroup"].contains(&mount["destination"].as_str().unwrap())
    });
    for list in ["maskedPaths", "readonlyPaths"] {
        bundle.set(&format!("/linux/{list}"), json!([]));
    }
}

#[test]
fn the_engines_own_mount_of_the_root_stays_whatever_fails() {
    let mut bundle = bundle!();
    if !has_strace() {
        skip!("needs strace");
    }
    let engine = crate::propagation::shared(&bundle.rootfs());
    // All that it mounts, it mounts on the host.
    bundle.drop_namespace("mount").set("/mounts", json!([]));
    for list in ["maskedPaths", "readonlyPaths"] {
        bundle.set(&format!("/linux/{list}"), json!([]));
    }
    let mounts = bundle.traces().mounts;
    assert_eq!(bundle.args(&["/bin/echo", "ran"]).run().ok().stdout(), "ran\n");
    assert_eq!(bundle.traces().mounts, mounts, "a run");
    // Before there is a process that could mount, nothing can be.
    let points = all_points(&bundle, &bundle.birth("create", &[]));
    bundle.verb("delete", &["--force"]).ok();
    for point in points.iter().skip_while(|point| point.0 != "clone3") {
        for fault in ["error=EIO", "signal=KILL"] {
            disturbed(&bundle, point, fault, bundle.birth("create", &[]));
            bundle.verb("delete", &["--force"]).ok();
            assert_eq!(bundle.traces().mounts, mounts, "{fault} at {point:?}");
        }
    }
    drop(engine);
}
