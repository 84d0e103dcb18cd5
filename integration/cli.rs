//! The command line: what commands print and log, as engines read it, and the shapes in which they ask.

use std::fs;
use std::os::unix::process::CommandExt;

use serde_json::{Value, json};

use crate::bundle::{Bundle, bundle, runtime, skip};
use crate::call::{Call, Output};
use crate::lifecycle::is_rfc3339;

/// The runtime without the fixture's global options.
fn bare(bundle: &Bundle, words: &[&str]) -> Output {
    Call::new(runtime(), &bundle.scratch()).args(words).output()
}

#[test]
fn version_has_the_lines_that_engines_look_for() {
    let bundle = bundle!();
    for option in ["--version", "-v"] {
        let output = bare(&bundle, &[option]).ok();
        assert_eq!(output.stderr, "");
        let text = output.stdout();
        let lines: Vec<&str> = text.lines().collect();
        let name = runtime().file_name().unwrap().to_str().unwrap().to_string();
        assert!(lines[0].starts_with(&format!("{name} version ")), "{text}");
        assert!(lines[1].starts_with("commit: "), "{text}");
        assert!(lines[2].starts_with("spec: 1."), "{text}");
    }
}

#[test]
fn help_is_an_answer_and_not_an_error() {
    let bundle = bundle!();
    let commands = [
        "create", "start", "run", "exec", "state", "kill", "delete", "list", "ps", "spec", "features",
        "plan", "pause", "resume", "update",
    ];
    let all = bare(&bundle, &["--help"]).ok();
    for command in commands {
        assert!(all.stdout().contains(command), "{command} is not in the help");
        let output = bare(&bundle, &[command, "--help"]).ok();
        assert!(!output.stdout().is_empty(), "{command}");
        assert_eq!(output.stderr, "", "{command}");
    }
}

#[test]
fn what_is_no_command_or_option_is_refused() {
    let bundle = bundle!();
    for words in [
        &["no-such-command"][..],
        &["--no-such-option"],
        &["create", "--no-such-option", "x"],
        &["create"],
        &[],
    ] {
        bare(&bundle, words).refused(1, &[]);
    }
    bare(&bundle, &["exec", "--no-such-option", "x", "y"]).refused(255, &["no-such-option"]);
}

#[test]
fn features_says_what_engines_ask_for() {
    let bundle = bundle!();
    let output = bare(&bundle, &["features"]).ok();
    assert_eq!(output.stderr, "");
    let features = output.json();
    assert_eq!(features["ociVersionMin"], "1.0.0");
    assert!(features["ociVersionMax"].as_str().unwrap().starts_with("1."));
    let hooks = ["prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"];
    assert_eq!(features["hooks"], json!(hooks));
    for option in
        ["ro", "rro", "rbind", "idmap", "ridmap", "nosymfollow", "tmpcopyup", "lazytime", "runbindable"]
    {
        assert!(features["mountOptions"].as_array().unwrap().contains(&json!(option)), "{option}");
    }
    let linux = &features["linux"];
    for kind in ["pid", "network", "mount", "ipc", "uts", "user", "cgroup", "time"] {
        assert!(linux["namespaces"].as_array().unwrap().contains(&json!(kind)), "{kind}");
    }
    assert!(linux["capabilities"].as_array().unwrap().contains(&json!("CAP_CHECKPOINT_RESTORE")));
    assert_eq!(linux["cgroup"]["v1"], true);
    assert_eq!(linux["cgroup"]["v2"], true);
    assert_eq!(linux["seccomp"]["enabled"], true);
    assert!(linux["seccomp"]["actions"].as_array().unwrap().contains(&json!("SCMP_ACT_ERRNO")));
    assert_eq!(linux["mountExtensions"]["idmap"]["enabled"], true);
}

#[test]
fn every_mount_option_of_features_is_one_that_a_mount_takes() {
    let mut bundle = bundle!();
    let features = bare(&bundle, &["features"]).ok().json();
    let source = bundle.rootfs().join("etc");
    // Those that need more than a word, or a mount that is there already.
    let others = ["idmap", "ridmap", "remount", "tmpcopyup"];
    for option in features["mountOptions"].as_array().unwrap() {
        let option = option.as_str().unwrap();
        if !others.contains(&option) {
            let target = format!("/tmp/{option}");
            bundle.mount(json!({"destination": target, "source": source, "options": ["bind", option]}));
        }
    }
    bundle.args(&["/bin/true"]).run().ok();
}

#[test]
fn spec_writes_the_example_and_overwrites_nothing() {
    let bundle = bundle!();
    let directory = bundle.scratch().join("new");
    fs::create_dir(&directory).unwrap();
    let words = ["spec", "--bundle", directory.to_str().unwrap()];
    bare(&bundle, &words).ok();
    let written = fs::read_to_string(directory.join("config.json")).unwrap();
    assert_eq!(written, include_str!("../config.json.example"));
    bare(&bundle, &words).refused(1, &["config.json", "exists"]);
}

#[test]
fn spec_writes_into_the_working_directory_and_for_a_user_without_root() {
    let bundle = bundle!();
    let directory = bundle.scratch().join("new");
    fs::create_dir(&directory).unwrap();
    let mut call = Call::new(runtime(), &bundle.scratch()).args(["spec", "--rootless"]);
    call.command.current_dir(&directory);
    call.output().ok();
    let config: Value =
        serde_json::from_str(&fs::read_to_string(directory.join("config.json")).unwrap()).unwrap();
    let kinds: Vec<&Value> =
        config["linux"]["namespaces"].as_array().unwrap().iter().map(|n| &n["type"]).collect();
    assert!(kinds.contains(&&json!("user")) && !kinds.contains(&&json!("network")), "{kinds:?}");
    assert_eq!(config["linux"]["uidMappings"][0]["size"], 1);
}

#[test]
fn the_example_runs() {
    let mut bundle = bundle!();
    bundle.args(&["sh", "-c", "echo it runs"]);
    assert_eq!(bundle.run().ok().stdout(), "it runs\n");
}

#[test]
fn list_shows_the_containers_of_the_root() {
    let mut bundle = bundle!();
    let empty = bundle.call(["list", "--format", "json"]).output().ok();
    assert!(["null", "[]"].contains(&empty.stdout().trim()), "{empty}");
    bundle.running();
    let json = bundle.call(["list", "--format=json"]).output().ok().json();
    let row = &json.as_array().unwrap()[0];
    assert_eq!(row["id"], bundle.id.as_str());
    assert_eq!((&row["status"], &row["pid"]), (&json!("running"), &json!(bundle.pid())));
    let own = nix::unistd::User::from_uid(nix::unistd::geteuid()).unwrap().unwrap();
    assert_eq!(row["owner"], own.name);
    assert_eq!(bundle.call(["list", "-q"]).output().ok().stdout(), format!("{}\n", bundle.id));
    let table = bundle.call(["list"]).output().ok().stdout();
    let lines: Vec<Vec<&str>> = table.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(lines[0], ["ID", "PID", "STATUS", "BUNDLE", "CREATED", "OWNER"]);
    assert_eq!(lines[1][..3], [bundle.id.as_str(), &bundle.pid().to_string(), "running"]);
}

#[test]
fn ps_shows_the_processes_of_the_container_and_no_others() {
    let mut bundle = bundle!();
    bundle.running();
    let second = bundle.exec_detached(&[], &["/bin/sleep", "60"]);
    let output = bundle.verb("ps", &["--format", "json"]).ok();
    assert_eq!(output.stderr, "");
    let mut pids: Vec<i64> = serde_json::from_value(output.json()).unwrap();
    pids.sort();
    let mut wanted = [bundle.pid() as i64, second as i64];
    wanted.sort();
    assert_eq!(pids, wanted);

    if std::process::Command::new("ps").arg("--version").output().is_err() {
        skip!("the host has no ps");
    }
    let table = bundle.verb("ps", &[]).ok().stdout();
    assert_eq!(table.lines().count(), 3, "a head and two processes: {table}");
    assert!(table.contains("signal-wait") && table.contains("sleep 60"), "{table}");
    for arguments in [&["-o", "pid,args"][..], &["-o pid,args"]] {
        let table =
            bundle.call(["ps", "--format", "table", &bundle.id]).args(arguments).output().ok().stdout();
        let head: Vec<&str> = table.lines().next().unwrap().split_whitespace().collect();
        assert_eq!(head, ["PID", "COMMAND"], "{arguments:?}");
    }
}

#[test]
fn commands_that_engines_parse_print_nothing_but_their_answer() {
    let mut bundle = bundle!();
    // A warning's worth of trouble.
    bundle.set("/process/capabilities/bounding", json!(["CAP_KILL", "CAP_NONE"]));
    bundle.running();
    for words in [&["state"][..], &["ps", "--format", "json"]] {
        let output = bundle.call(["--debug"]).args(words).arg(&bundle.id).output().ok();
        output.json();
        let quiet = bundle.call(words).arg(&bundle.id).output().ok();
        assert_eq!(quiet.stderr, "", "{words:?}");
    }
}

/// A command that fails, with a log. The command's output and the log's text.
fn failing(bundle: &Bundle, format: &str) -> (Output, String) {
    let log = bundle.scratch().join("log");
    let call = bundle.call(["--log"]).arg(&log).args(["--log-format", format, "start", "nothing"]);
    let output = call.output().refused(1, &["does not exist"]);
    (output, fs::read_to_string(&log).unwrap())
}

#[test]
fn a_failing_command_logs_one_record() {
    let bundle = bundle!();
    let (output, text) = failing(&bundle, "json");
    // Podman reads the file as one object.
    let record: Value = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"));
    assert_eq!(record["level"], "error");
    assert_eq!(record["msg"].as_str().unwrap(), output.stderr.trim_end());
    let time = record["time"].as_str().unwrap();
    assert!(is_rfc3339(time), "{time}");
}

#[test]
fn the_log_is_appended_to() {
    let bundle = bundle!();
    failing(&bundle, "json");
    let (_, text) = failing(&bundle, "json");
    let records: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(records.len(), 2);
}

#[test]
fn a_text_log_is_one_line_for_each_error() {
    let bundle = bundle!();
    let (output, text) = failing(&bundle, "text");
    assert_eq!(text.lines().count(), 1, "{text}");
    assert!(text.contains("does not exist"), "{text}");
    assert!(!output.stderr.contains('\u{1b}'), "no colours");
}

#[test]
fn a_refused_config_logs_the_same_sentence() {
    let mut bundle = bundle!();
    bundle.args(&[]).write_config();
    let log = bundle.scratch().join("log");
    let call = bundle.call(["--log"]).arg(&log).args(["--log-format=json", "create", "--bundle"]);
    let output = call.arg(bundle.path()).arg(&bundle.id).output().refused(1, &["process.args"]);
    let record: Value = serde_json::from_str(&fs::read_to_string(&log).unwrap()).unwrap();
    assert_eq!(record["msg"].as_str().unwrap(), output.stderr.trim_end());
}

#[test]
fn success_logs_nothing() {
    let mut bundle = bundle!();
    bundle.args(&["/bin/true"]).write_config();
    let log = bundle.scratch().join("log");
    let call = bundle.call(["--log"]).arg(&log).args(["--log-format", "json", "run", "--bundle"]);
    call.arg(bundle.path()).arg(&bundle.id).output().ok();
    assert_eq!(fs::read_to_string(&log).unwrap_or_default(), "");
}

#[test]
fn a_log_that_cannot_be_written_is_an_error() {
    let bundle = bundle!();
    let output = bundle.call(["--log", "/no/such/directory/log", "list"]).output();
    output.refused(1, &["/no/such/directory/log"]);
}

#[test]
fn odd_shapes_of_options_are_understood() {
    let table: [(&[&str], &[&str]); 10] = [
        (&["--rootless=true"], &["run"]),
        (&["--rootless", "auto"], &["run"]),
        (&["--rootless=false", "--debug"], &["run"]),
        (&["--cgroup-manager", "cgroupfs"], &["run"]),
        (&["--criu", "/usr/sbin/criu"], &["run"]),
        (&["--log-level", "error"], &["run"]),
        (&[], &["run", "-no-subreaper"]),
        (&[], &["run", "--no-subreaper", "--no-new-keyring"]),
        (&[], &["run", "-no-pivot"]),
        (&[], &["run", "--preserve-fds=0"]),
    ];
    for (global, words) in table {
        let mut bundle = bundle!();
        bundle.args(&["/bin/echo", "ran"]).write_config();
        let call = bundle.call(global).args(words).arg("--bundle").arg(bundle.path()).arg(&bundle.id);
        assert_eq!(call.output().ok().stdout(), "ran\n", "{global:?} {words:?}");
    }
}

#[test]
fn create_takes_detach_and_a_single_dash() {
    let bundle = bundle!();
    bundle.write_config();
    let call = bundle
        .call(["create", "--detach", "-bundle"])
        .arg(bundle.path())
        .arg("-pid-file")
        .arg(bundle.pid_file());
    call.arg(&bundle.id).output().ok();
    bundle.assert_status("created");
}

#[test]
fn the_whole_life_of_a_container_as_containerd_asks_for_it() {
    let mut bundle = bundle!();
    bundle.args(&["/witness", "signal-wait"]).write_config();
    let log = bundle.scratch().join("log.json");
    let ask = |words: &[&str]| {
        let call = bundle.call(["--log"]).arg(&log).args(["--log-format", "json"]).args(words);
        call.output()
    };
    let (path, pid_file) = (bundle.path(), bundle.pid_file());
    let (path, pid_file) = (path.to_str().unwrap(), pid_file.to_str().unwrap());
    ask(&["create", "--bundle", path, "--pid-file", pid_file, &bundle.id]).ok();
    ask(&["start", &bundle.id]).ok();
    assert_eq!(ask(&["state", &bundle.id]).ok().json()["status"], "running");
    assert_eq!(ask(&["ps", "--format", "json", &bundle.id]).ok().json(), json!([bundle.pid()]));
    ask(&["kill", "--all", &bundle.id, "9"]).ok();
    bundle.wait();
    ask(&["delete", &bundle.id]).ok();
    ask(&["delete", "--force", &bundle.id]).ok();
    ask(&["delete", &bundle.id]).refused(1, &["does not exist"]);
}

/// `plan` as nobody in particular, with a copy of the runtime and a bundle that they may use.
fn plan(bundle: &mut Bundle, options: &[&str]) -> Output {
    let copy = bundle.copy_of_runtime();
    bundle.add_namespace(json!({"type": "user"})).drop_namespace("network").unset("/linux", "resources");
    for mappings in ["/linux/uidMappings", "/linux/gidMappings"] {
        bundle.set(mappings, json!([{"containerID": 0, "hostID": 65534, "size": 1}]));
    }
    bundle.config["mounts"][2]["options"] =
        json!(["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"]);
    bundle.config["mounts"][5] = json!({"destination": "/sys", "source": "/sys", "options": ["rbind", "ro"]});
    bundle.write_config();
    let mut call =
        Call::new(copy, &bundle.scratch()).args(["plan", "--bundle"]).arg(bundle.path()).args(options);
    call.command.uid(65534).gid(65534).current_dir("/");
    call.output()
}

#[test]
fn plan_shows_without_root_what_create_would_do() {
    let mut bundle = bundle!();
    bundle
        .args(&["/bin/echo", "hello"])
        .mount(json!({"destination": "/mnt", "type": "tmpfs", "source": "tmpfs"}));
    bundle.write_config();
    let before = bundle.traces();
    let text = plan(&mut bundle, &[]).ok().stdout();
    for phrase in ["/proc", "/mnt", "pivot", "/proc/kcore", "exec", "/bin/echo"] {
        assert!(text.contains(phrase), "no {phrase} in:\n{text}");
    }
    before.assert_same(&bundle.traces(), "plan");
}

#[test]
fn a_plan_as_json_is_json() {
    let mut bundle = bundle!();
    bundle.args(&["/bin/echo", "hello"]);
    let plan = plan(&mut bundle, &["--format", "json"]).ok().json();
    assert!(!plan["steps"].as_array().expect("steps").is_empty());
}

#[test]
fn plan_refuses_what_create_refuses() {
    let mut bundle = bundle!();
    bundle.set("/process/cwd", json!("relative"));
    plan(&mut bundle, &[]).refused(1, &["config.json: process.cwd"]);
}

#[test]
fn a_broken_container_does_not_hide_the_others_from_list() {
    let mut bundle = bundle!();
    bundle.running();
    let broken = bundle.state_root().join("broken");
    std::fs::create_dir(&broken).unwrap();
    std::fs::write(broken.join("state.json"), "{").unwrap();
    let log = bundle.scratch().join("log");
    let list = |level: &str| {
        let call = bundle.call(["--log"]).arg(&log).args(["--log-level", level, "list", "--quiet"]);
        call.output().ok()
    };
    let output = list("error");
    assert_eq!((output.stdout(), output.stderr.as_str()), (format!("{}\n", bundle.id), ""));
    assert_eq!(std::fs::read_to_string(&log).unwrap(), "");
    list("warning");
    let said = std::fs::read_to_string(&log).unwrap();
    assert!(said.lines().count() == 1 && said.contains("list broken") && said.contains("damaged"), "{said}");
    let output = bundle.call(["list", "--quiet"]).output().ok();
    assert_eq!(output.stdout(), format!("{}\n", bundle.id));
    assert!(output.stderr.starts_with("list broken: ") && output.stderr.lines().count() == 1, "{output}");
    std::fs::remove_dir_all(broken).unwrap();
}

#[test]
fn an_error_that_nobody_reads_is_still_an_exit_status() {
    let bundle = bundle!();
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let mut call = bundle.call(["state", "missing"]);
    call.command.stderr(writer);
    assert_eq!(call.output().code(), 1);
}

#[test]
fn an_error_does_not_speak_to_the_terminal() {
    let mut bundle = bundle!();
    let line = r"printf '\033[31mred\007\r\nlines'; exit 1";
    bundle.set("/hooks/createRuntime", json!([{"path": "/bin/sh", "args": ["sh", "-c", line]}]));
    let output = bundle.create().refused(1, &["red", "lines"]);
    assert!(!output.stderr.trim_end().contains(|letter: char| letter.is_control()), "{output}");
}

#[test]
fn debug_logs_the_plan_and_prints_nothing() {
    let mut bundle = bundle!();
    bundle.args(&["/bin/true"]);
    bundle.write_config();
    let log = bundle.scratch().join("log");
    let call = bundle.call(["--debug", "--log-format", "json", "--log"]).arg(&log).args(["run", "--bundle"]);
    let output = call.arg(bundle.path()).arg(&bundle.id).output().ok();
    assert_eq!((output.stdout(), output.stderr.as_str()), (String::new(), ""));
    let text = std::fs::read_to_string(log).unwrap();
    let record: Value = serde_json::from_str(text.lines().next().unwrap()).unwrap();
    assert_eq!(record["level"], "debug");
    assert!(record["msg"].as_str().unwrap().contains("pivot"), "{text}");
}
