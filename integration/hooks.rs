//! Hooks: when each kind runs, where, with what on its stdin, and what its failure does.

use std::fs;
use std::time::Instant;

use serde_json::{Value, json};

use crate::bundle::{Bundle, bundle, skip};

/// Hooks that run on the host, and those that run in the container.
const OUTSIDE: [&str; 4] = ["prestart", "createRuntime", "poststart", "poststop"];
const INSIDE: [&str; 2] = ["createContainer", "startContainer"];

/// A hook that runs a line of shell; `$LOG` is a directory that both sides see at the same path.
fn shell_hook(bundle: &Bundle, line: &str) -> Value {
    let log = log(bundle);
    json!({"path": "/bin/sh", "args": ["sh", "-c", line], "env": [format!("LOG={}", log.display()), "PATH=/bin:/usr/bin"]})
}

fn log(bundle: &Bundle) -> std::path::PathBuf {
    bundle.scratch().join("log")
}

/// Adds a hook of a kind. The log directory is mounted in the container where the host has it.
fn add(bundle: &mut Bundle, kind: &str, hook: Value) {
    let log = log(bundle);
    if !log.exists() {
        fs::create_dir(&log).unwrap();
        bundle.mount(json!({"destination": log, "source": log, "options": ["bind"]}));
    }
    let hooks = &mut bundle.config["hooks"][kind];
    match hooks.as_array_mut() {
        Some(list) => list.push(hook),
        None => *hooks = json!([hook]),
    }
}

fn logged(bundle: &Bundle, name: &str) -> String {
    fs::read_to_string(log(bundle).join(name)).unwrap_or_default()
}

#[test]
fn hooks_run_in_the_order_of_a_containers_life() {
    let mut bundle = bundle!();
    for kind in ["prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"] {
        for number in [1, 2] {
            let hook = shell_hook(&bundle, &format!("echo {kind} {number} >> $LOG/order"));
            add(&mut bundle, kind, hook);
        }
    }
    let order = |kinds: &[&str]| -> String {
        kinds.iter().flat_map(|kind| [1, 2].map(|number| format!("{kind} {number}\n"))).collect()
    };
    bundle.args(&["/witness", "signal-wait"]);
    bundle.create().ok();
    let create = order(&["prestart", "createRuntime", "createContainer"]);
    assert_eq!(logged(&bundle, "order"), create);
    bundle.start().ok();
    let start = create + &order(&["startContainer", "poststart"]);
    assert_eq!(logged(&bundle, "order"), start);
    bundle.kill("KILL").ok();
    bundle.wait();
    bundle.delete().ok();
    assert_eq!(logged(&bundle, "order"), start + &order(&["poststop"]));
}

#[test]
fn start_container_hooks_run_before_the_process() {
    let mut bundle = bundle!();
    let hook = shell_hook(&bundle, "echo hook >> $LOG/order");
    add(&mut bundle, "startContainer", hook);
    let line = format!("echo process >> {}/order", log(&bundle).display());
    bundle.shell(&line).run().ok();
    assert_eq!(logged(&bundle, "order"), "hook\nprocess\n");
}

#[test]
fn each_kind_of_hook_runs_in_its_namespaces() {
    let mut bundle = bundle!();
    for kind in OUTSIDE.iter().chain(&INSIDE) {
        let line = format!("for n in pid net ipc uts mnt; do readlink /proc/self/ns/$n; done > $LOG/{kind}");
        let hook = shell_hook(&bundle, &line);
        add(&mut bundle, kind, hook);
    }
    bundle.shell("for n in pid net ipc uts mnt; do readlink /proc/self/ns/$n; done");
    let inside = bundle.run().ok().stdout();
    let outside: String = ["pid", "net", "ipc", "uts", "mnt"]
        .map(|name| format!("{}\n", fs::read_link(format!("/proc/self/ns/{name}")).unwrap().display()))
        .concat();
    for kind in OUTSIDE {
        assert_eq!(logged(&bundle, kind), outside, "{kind}");
    }
    for kind in INSIDE {
        assert_eq!(logged(&bundle, kind), inside, "{kind}");
    }
}

#[test]
fn hooks_see_the_root_that_their_kind_promises() {
    let mut bundle = bundle!();
    for kind in OUTSIDE.iter().chain(&INSIDE) {
        let hook = shell_hook(
            &bundle,
            &format!("test -e /witness && echo image > $LOG/{kind} || echo host > $LOG/{kind}"),
        );
        add(&mut bundle, kind, hook);
    }
    bundle.args(&["/bin/true"]).run().ok();
    for kind in OUTSIDE {
        assert_eq!(logged(&bundle, kind), "host\n", "{kind}");
    }
    // createContainer comes before the root is changed.
    assert_eq!(logged(&bundle, "createContainer"), "host\n");
    assert_eq!(logged(&bundle, "startContainer"), "image\n");
}

#[test]
fn hooks_get_the_state_on_stdin() {
    let mut bundle = bundle!();
    bundle.set("/annotations", json!({"org.example.key": "value"}));
    let kinds = [
        ("prestart", "created"),
        ("createRuntime", "created"),
        ("createContainer", "created"),
        ("startContainer", "created"),
        ("poststart", "running"),
        ("poststop", "stopped"),
    ];
    for (kind, _) in kinds {
        let hook = shell_hook(&bundle, &format!("cat > $LOG/{kind}"));
        add(&mut bundle, kind, hook);
    }
    bundle.args(&["/witness", "signal-wait"]);
    bundle.create().ok();
    bundle.start().ok();
    let pid = bundle.pid();
    bundle.kill("KILL").ok();
    bundle.wait();
    bundle.delete().ok();
    for (kind, status) in kinds {
        let text = logged(&bundle, kind);
        let state: Value =
            serde_json::from_str(&text).unwrap_or_else(|error| panic!("{kind}: {error}: {text:?}"));
        assert_eq!(state["status"], status, "{kind}");
        assert_eq!(state["id"], bundle.id.as_str(), "{kind}");
        assert_eq!(state["bundle"], bundle.path().to_str().unwrap(), "{kind}");
        assert_eq!(state["annotations"]["org.example.key"], "value", "{kind}");
        assert!(state["ociVersion"].as_str().unwrap().starts_with("1."), "{kind}");
        match kind {
            "prestart" | "createRuntime" | "poststart" => assert_eq!(state["pid"], pid, "{kind}"),
            "createContainer" | "startContainer" => assert_eq!(state["pid"], 1, "{kind}: as seen from there"),
            _ => assert!(state["pid"].is_null() || state["pid"] == 0, "{kind}: {}", state["pid"]),
        }
    }
}

#[test]
fn args_and_env_of_a_hook_are_exactly_the_given_ones() {
    // CVE-2025-23266: the environment of the container or of the caller is none of a hook's business.
    let mut bundle = bundle!();
    bundle.set("/process/env", json!(["PATH=/bin", "LD_PRELOAD=/evil.so"]));
    for kind in OUTSIDE.iter().chain(&INSIDE) {
        let mut hook = shell_hook(&bundle, &format!("{{ echo \"$0 $1\"; env; }} > $LOG/{kind}"));
        hook["args"].as_array_mut().unwrap().extend([json!("zero"), json!("two words")]);
        add(&mut bundle, kind, hook);
    }
    bundle.args(&["/bin/true"]);
    bundle.birth("run", &[]).env("LEAK", "from the caller").output().ok();
    for kind in OUTSIDE.iter().chain(&INSIDE) {
        let text = logged(&bundle, kind);
        let mut lines = text.lines();
        assert_eq!(lines.next(), Some("zero two words"), "{kind}");
        let of_the_shell = ["PWD=", "OLDPWD=", "SHLVL=", "_="];
        let mut env: Vec<&str> =
            lines.filter(|line| !of_the_shell.iter().any(|own| line.starts_with(own))).collect();
        env.sort();
        assert_eq!(env, [format!("LOG={}", log(&bundle).display()), "PATH=/bin:/usr/bin".into()], "{kind}");
    }
}

#[test]
fn a_failing_hook_stops_the_creation_and_leaves_nothing() {
    for kind in ["prestart", "createRuntime", "createContainer"] {
        let mut bundle = bundle!();
        let failing = shell_hook(&bundle, "exit 3");
        let later = shell_hook(&bundle, "echo ran > $LOG/later");
        add(&mut bundle, kind, failing);
        add(&mut bundle, kind, later);
        bundle.create().refused(1, &[kind]);
        bundle.assert_nothing_left(kind);
        assert_eq!(logged(&bundle, "later"), "", "{kind}: the first failure ends the list");
        bundle.verb("state", &[]).refused(1, &["does not exist"]);
    }
}

#[test]
fn the_reason_that_a_hook_gives_reaches_the_caller() {
    let mut bundle = bundle!();
    let failing = shell_hook(&bundle, "echo the reason >&2; exit 3");
    add(&mut bundle, "createRuntime", failing);
    let output = bundle.create();
    assert_eq!(output.code(), 1, "{output}");
    assert!(output.stderr.contains("the reason"), "{output}");
}

#[test]
fn the_poststop_hooks_run_when_a_creation_fails() {
    let mut bundle = bundle!();
    let failing = shell_hook(&bundle, "exit 3");
    let poststop = shell_hook(&bundle, "echo ran > $LOG/poststop");
    add(&mut bundle, "createRuntime", failing);
    add(&mut bundle, "poststop", poststop);
    bundle.create().refused(1, &["createRuntime"]);
    assert_eq!(logged(&bundle, "poststop"), "ran\n");
}

#[test]
fn a_failing_start_container_hook_fails_start() {
    let mut bundle = bundle!();
    let failing = shell_hook(&bundle, "exit 3");
    add(&mut bundle, "startContainer", failing);
    bundle.shell("echo ran");
    let output = bundle.create().ok();
    bundle.start().refused(1, &["startContainer"]);
    bundle.wait();
    assert_eq!(output.stdout(), "");
}

#[test]
fn a_failing_poststart_hook_stops_the_container_and_fails_start() {
    let mut bundle = bundle!();
    let failing = shell_hook(&bundle, "exit 3");
    add(&mut bundle, "poststart", failing);
    bundle.args(&["/witness", "signal-wait"]);
    bundle.create().ok();
    bundle.start().refused(1, &["poststart"]);
    assert_eq!(bundle.wait(), 128 + 9);
}

#[test]
fn a_failing_poststop_hook_only_warns_and_the_others_run() {
    let mut bundle = bundle!();
    let failing = shell_hook(&bundle, "exit 3");
    let later = shell_hook(&bundle, "echo ran > $LOG/later");
    add(&mut bundle, "poststop", failing);
    add(&mut bundle, "poststop", later);
    bundle.create().ok();
    bundle.delete().ok();
    assert_eq!(logged(&bundle, "later"), "ran\n");
    bundle.assert_nothing_left("delete");
}

#[test]
fn a_hook_that_takes_too_long_is_killed_and_has_failed() {
    let mut bundle = bundle!();
    let mut slow = shell_hook(&bundle, "exec sleep 600");
    slow["timeout"] = json!(1);
    add(&mut bundle, "createRuntime", slow);
    let start = Instant::now();
    bundle.create().refused(1, &["createRuntime"]);
    assert!(start.elapsed().as_secs() < 60);
    bundle.assert_nothing_left("a slow hook");
}

#[test]
fn a_hook_need_not_read_its_stdin() {
    let mut bundle = bundle!();
    // More state than a pipe holds.
    bundle.set("/annotations/big", json!("x".repeat(200_000)));
    for kind in OUTSIDE.iter().chain(&INSIDE) {
        add(&mut bundle, kind, json!({"path": "/bin/true"}));
    }
    bundle.args(&["/bin/true"]).run().ok();
}

#[test]
fn a_hook_that_is_not_there_is_named() {
    let mut bundle = bundle!();
    add(&mut bundle, "createRuntime", json!({"path": "/no/such/hook"}));
    bundle.create().refused(1, &["/no/such/hook", "o such file or directory"]);
    bundle.assert_nothing_left("create");
}

#[test]
fn hooks_inside_the_container_are_found_there() {
    let mut bundle = bundle!();
    bundle.program("hook", "#!/bin/sh\necho from the image >> $LOG/startContainer\n");
    let env = [format!("LOG={}", log(&bundle).display())];
    add(&mut bundle, "startContainer", json!({"path": "/hook", "env": env}));
    bundle.args(&["/bin/true"]).run().ok();
    assert_eq!(logged(&bundle, "startContainer"), "from the image\n");
}

#[test]
fn a_runtime_hook_can_work_on_the_containers_network() {
    let mut bundle = bundle!();
    // What CNI plugins do: enter the namespace by the pid of the state.
    let line = "pid=$(grep -o '\"pid\": *[0-9]*' | grep -o '[0-9]*'); readlink /proc/$pid/ns/net > $LOG/net";
    let hook = shell_hook(&bundle, line);
    add(&mut bundle, "createRuntime", hook);
    let report = bundle.report();
    assert_eq!(logged(&bundle, "net").trim(), report["namespaces"]["net"]);
}
