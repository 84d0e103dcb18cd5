//! The process: what it is, who it is, and what it may do.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;

use serde_json::{Value, json};

use crate::bundle::{Bundle, bundle, skip};
use crate::call::{Call, eventually};
use crate::cgroups::hierarchy;
use crate::namespaces::map_users;
use crate::supervision::by_shell;

fn names(list: &Value) -> BTreeSet<&str> {
    list.as_array().expect("a list").iter().map(|name| name.as_str().expect("a name")).collect()
}

#[test]
fn args_reach_the_process_as_they_are() {
    let mut bundle = bundle!();
    bundle.args(&["/witness", "report", "", "two words", "$HOME", "ü", "--help"]);
    let report = bundle.run().ok().json();
    assert_eq!(report["args"], bundle.config["process"]["args"]);
}

#[test]
fn the_program_is_found_in_the_path_of_the_container() {
    let mut bundle = bundle!();
    fs::create_dir(bundle.rootfs().join("tools")).unwrap();
    bundle.program("tools/tool", "#!/bin/sh\necho found\n");
    bundle.args(&["tool"]).set("/process/env", json!(["PATH=/nowhere:/tools:/bin"]));
    assert_eq!(bundle.run().ok().stdout(), "found\n");
}

#[test]
fn a_program_that_cannot_be_run_is_refused_at_create_in_the_words_that_engines_read() {
    let plain = |bundle: &Bundle| fs::write(bundle.rootfs().join("plain"), "text").unwrap();
    let table: [(&str, &[&str]); 6] = [
        ("nothing", &["exec: \"nothing\": executable file not found in $PATH"]),
        ("/bin/nothing", &["exec: \"/bin/nothing\": stat /bin/nothing: no such file or directory"]),
        ("/etc", &["exec: \"/etc\": is a directory: permission denied"]),
        ("/plain", &["exec: \"/plain\": permission denied"]),
        ("/plain/below", &["not a directory"]),
        ("./nothing", &["no such file or directory"]),
    ];
    for (program, phrases) in table {
        let mut bundle = bundle!();
        plain(&bundle);
        bundle.args(&[program]);
        bundle.create().refused(1, phrases);
        bundle.assert_nothing_left(program);
    }
}

#[test]
fn start_reports_what_the_kernel_says_of_the_program() {
    let mut bundle = bundle!();
    bundle.program("bad", "\x7fELF is not all it takes");
    bundle.args(&["/bad"]);
    bundle.create().ok();
    bundle.start().refused(1, &["exec /bad: exec format error"]);
    bundle.wait();
    bundle.assert_status("stopped");
}

#[test]
fn a_script_without_its_interpreter_is_reported() {
    let mut bundle = bundle!();
    bundle.program("script", "#!/no/such/interpreter\n");
    bundle.args(&["/script"]);
    bundle.run().refused(1, &["no such file or directory"]);
}

#[test]
fn the_environment_is_exactly_the_configured_one() {
    let mut bundle = bundle!();
    bundle
        .args(&["/witness", "report"])
        .set("/process/env", json!(["PATH=/bin", "HOME=/there", "A=", "B=x=y", "C=two words"]));
    let report = bundle.birth("run", &[]).env("LEAK", "from the host").output().ok().json();
    assert_eq!(names(&report["env"]), names(&bundle.config["process"]["env"]));
}

#[test]
fn the_last_of_two_variables_wins() {
    let mut bundle = bundle!();
    bundle.set("/process/env", json!(["A=first", "HOME=/", "A=last"])).args(&["/bin/sh", "-c", "echo $A"]);
    assert_eq!(bundle.run().ok().stdout(), "last\n");
}

#[test]
fn home_comes_from_the_passwd_file_of_the_image() {
    for (uid, home) in [(0, "/root"), (1000, "/home/web"), (4242, "/")] {
        let mut bundle = bundle!();
        bundle.set("/process/user/uid", json!(uid));
        let report = bundle.report();
        assert!(names(&report["env"]).contains(format!("HOME={home}").as_str()), "{uid}: {}", report["env"]);
    }
}

#[test]
fn cwd_is_where_the_process_starts() {
    let mut bundle = bundle!();
    bundle.set("/process/cwd", json!("/etc"));
    assert_eq!(bundle.report()["cwd"], "/etc");
}

#[test]
fn a_missing_cwd_is_made() {
    let mut bundle = bundle!();
    bundle.set("/process/cwd", json!("/srv/work/here"));
    assert_eq!(bundle.report()["cwd"], "/srv/work/here");
    let made = fs::metadata(bundle.rootfs().join("srv/work/here")).unwrap();
    assert_eq!(made.permissions().mode() & 0o777, 0o755);
}

#[test]
fn a_cwd_that_only_the_user_may_enter_is_entered_as_the_user() {
    let mut bundle = bundle!();
    let home = bundle.rootfs().join("private");
    fs::create_dir(&home).unwrap();
    fs::set_permissions(&home, fs::Permissions::from_mode(0o700)).unwrap();
    std::os::unix::fs::chown(&home, Some(1000), Some(1000)).unwrap();
    bundle.set("/process/user", json!({"uid": 1000, "gid": 1000})).set("/process/cwd", json!("/private"));
    assert_eq!(bundle.report()["cwd"], "/private");
}

#[test]
fn a_cwd_that_only_root_may_enter_is_entered_before_the_user_is_set() {
    let mut bundle = bundle!();
    let home = bundle.rootfs().join("private");
    fs::create_dir(&home).unwrap();
    fs::set_permissions(&home, fs::Permissions::from_mode(0o700)).unwrap();
    bundle.set("/process/user", json!({"uid": 1000, "gid": 1000})).set("/process/cwd", json!("/private"));
    assert_eq!(bundle.report()["cwd"], "/private");
}

#[test]
fn user_group_and_additional_groups_are_set() {
    let mut bundle = bundle!();
    bundle.set("/process/user", json!({"uid": 1000, "gid": 1001, "additionalGids": [5, 27, 100]}));
    let report = bundle.report();
    assert_eq!(report["uids"], json!([1000, 1000, 1000]));
    assert_eq!(report["gids"], json!([1001, 1001, 1001]));
    assert_eq!(report["groups"], json!([5, 27, 100]));
}

#[test]
fn groups_of_the_caller_are_dropped() {
    let mut bundle = bundle!();
    assert_eq!(bundle.report()["groups"], json!([]));
}

#[test]
fn umask_is_0022_unless_another_is_asked() {
    let mut bundle = bundle!();
    assert_eq!(bundle.report()["umask"], "0022");
    bundle.set("/process/user/umask", json!(0o077));
    assert_eq!(bundle.report()["umask"], "0077");
}

#[test]
fn every_capability_set_is_the_configured_one() {
    let mut bundle = bundle!();
    let sets = [
        ("bounding", vec!["CAP_CHOWN", "CAP_KILL", "CAP_SETUID", "CAP_NET_RAW"]),
        ("permitted", vec!["CAP_CHOWN", "CAP_KILL", "CAP_SETUID"]),
        ("effective", vec!["CAP_CHOWN", "CAP_KILL"]),
        ("inheritable", vec!["CAP_KILL", "CAP_SETUID"]),
        ("ambient", vec!["CAP_KILL"]),
    ];
    // As another user: root's execve refills the sets from the bounding one.
    bundle.set("/process/user/uid", json!(1000));
    for (set, list) in &sets {
        bundle.config["process"]["capabilities"][*set] = json!(list);
    }
    let report = bundle.report();
    let have = &report["capabilities"];
    assert_eq!(have["bounding"], json!(["CAP_CHOWN", "CAP_KILL", "CAP_SETUID", "CAP_NET_RAW"]));
    assert_eq!(have["inheritable"], json!(["CAP_KILL", "CAP_SETUID"]));
    assert_eq!(have["ambient"], json!(["CAP_KILL"]));
    // What execve leaves to a user without file capabilities: the ambient set.
    assert_eq!(have["permitted"], json!(["CAP_KILL"]));
    assert_eq!(have["effective"], json!(["CAP_KILL"]));
}

#[test]
fn root_has_the_bounding_capabilities_and_inherits_none() {
    let mut bundle = bundle!();
    let report = bundle.report();
    let have = &report["capabilities"];
    let asked = bundle.config["process"]["capabilities"]["bounding"].clone();
    for set in ["bounding", "permitted", "effective"] {
        assert_eq!(names(&have[set]), names(&asked), "{set}");
    }
    assert_eq!(have["inheritable"], json!([]));
    assert_eq!(have["ambient"], json!([]));
}

#[test]
fn a_process_without_capabilities_has_none() {
    let mut bundle = bundle!();
    bundle.unset("/process", "capabilities");
    let report = bundle.report();
    for set in ["bounding", "permitted", "effective", "inheritable", "ambient"] {
        assert_eq!(report["capabilities"][set], json!([]), "{set}");
    }
}

#[test]
fn a_user_gets_no_capability_from_the_bounding_set() {
    // CVE-2016-8867: ambient capabilities that nobody asked for.
    let mut bundle = bundle!();
    bundle.set("/process/user/uid", json!(1000));
    let report = bundle.report();
    for set in ["permitted", "effective", "inheritable", "ambient"] {
        assert_eq!(report["capabilities"][set], json!([]), "{set}");
    }
}

#[test]
fn rlimits_are_set_and_the_others_stay_those_of_the_caller() {
    let mut bundle = bundle!();
    bundle.set(
        "/process/rlimits",
        json!([
            {"type": "RLIMIT_NOFILE", "soft": 64, "hard": 128},
            {"type": "RLIMIT_CORE", "soft": 0, "hard": 0},
            {"type": "RLIMIT_FSIZE", "soft": 1_048_576, "hard": 2_097_152},
            {"type": "RLIMIT_STACK", "soft": 1_048_576, "hard": 2_097_152},
        ]),
    );
    let report = bundle.report();
    let limits = &report["rlimits"];
    assert_eq!(limits["RLIMIT_NOFILE"], json!([64, 128]));
    assert_eq!(limits["RLIMIT_CORE"], json!([0, 0]));
    assert_eq!(limits["RLIMIT_FSIZE"], json!([1_048_576, 2_097_152]));
    assert_eq!(limits["RLIMIT_STACK"], json!([1_048_576, 2_097_152]));
    let (soft, hard) = nix::sys::resource::getrlimit(nix::sys::resource::Resource::RLIMIT_NPROC).unwrap();
    assert_eq!(limits["RLIMIT_NPROC"], json!([soft, hard]));
}

/// CAP_SYS_RESOURCE.
fn may_raise_limits() -> bool {
    let status = fs::read_to_string("/proc/self/status").expect("read our status");
    let effective =
        status.lines().find_map(|line| line.strip_prefix("CapEff:")).expect("a CapEff line").trim();
    u64::from_str_radix(effective, 16).expect("a mask") & 1 << 24 != 0
}

/// As root of a user namespace nobody may, so it has to happen before.
#[test]
fn a_hard_limit_above_the_callers_is_given_in_a_user_namespace_too() {
    let mut bundle = bundle!();
    if !may_raise_limits() {
        skip!("no CAP_SYS_RESOURCE: no limit can be raised");
    }
    let (_, hard) = nix::sys::resource::getrlimit(nix::sys::resource::Resource::RLIMIT_MSGQUEUE).unwrap();
    let more = hard.checked_add(1).expect("a machine that limits message queues");
    map_users(&mut bundle);
    bundle.set("/process/rlimits", json!([{"type": "RLIMIT_MSGQUEUE", "soft": more, "hard": more}]));
    bundle.running();
    let report = bundle.exec(&["/witness", "report"]).ok().json();
    assert_eq!(report["rlimits"]["RLIMIT_MSGQUEUE"], json!([more, more]));
    let init = fs::read_to_string(format!("/proc/{}/limits", bundle.pid())).unwrap();
    assert!(
        init.lines().any(|line| line.starts_with("Max msgqueue size") && line.contains(&more.to_string()))
    );
}

#[test]
fn every_kind_of_rlimit_is_known() {
    let kinds = [
        "RLIMIT_AS",
        "RLIMIT_CORE",
        "RLIMIT_CPU",
        "RLIMIT_DATA",
        "RLIMIT_FSIZE",
        "RLIMIT_LOCKS",
        "RLIMIT_MEMLOCK",
        "RLIMIT_MSGQUEUE",
        "RLIMIT_NICE",
        "RLIMIT_NOFILE",
        "RLIMIT_NPROC",
        "RLIMIT_RSS",
        "RLIMIT_RTPRIO",
        "RLIMIT_RTTIME",
        "RLIMIT_SIGPENDING",
        "RLIMIT_STACK",
    ];
    // What the test itself has needs no right to raise.
    let mut probe = bundle!();
    probe.set("/process/rlimits", json!([]));
    let own = probe.report()["rlimits"].clone();
    let mut bundle = bundle!();
    let limits: Vec<Value> =
        kinds.iter().map(|kind| json!({"type": kind, "soft": own[kind][0], "hard": own[kind][1]})).collect();
    bundle.set("/process/rlimits", json!(limits));
    assert_eq!(bundle.report()["rlimits"], own);
}

#[test]
fn no_new_privileges_is_as_configured() {
    for (asked, seen) in [(true, "1"), (false, "0")] {
        let mut bundle = bundle!();
        bundle.set("/process/noNewPrivileges", json!(asked));
        assert_eq!(bundle.report()["no_new_privs"], seen);
    }
}

#[test]
fn oom_score_adj_is_set_or_left_alone() {
    let own = fs::read_to_string("/proc/self/oom_score_adj").unwrap();
    let mut bundle = bundle!();
    assert_eq!(bundle.report()["oom_score_adj"], own.trim());
    bundle.set("/process/oomScoreAdj", json!(517));
    assert_eq!(bundle.report()["oom_score_adj"], "517");
}

#[test]
fn the_scheduler_is_set() {
    for scheduler in [
        json!({"policy": "SCHED_BATCH", "nice": 5}),
        json!({"policy": "SCHED_OTHER", "nice": 19}),
        json!({"policy": "SCHED_IDLE"}),
    ] {
        let mut bundle = bundle!();
        bundle.set("/process/scheduler", scheduler.clone());
        assert_scheduler(&bundle.report(), &scheduler);
    }
}

#[test]
fn a_real_time_scheduler_is_set() {
    let mut bundle = bundle!();
    // A machine may have no real time to give, as where another scheduler owns all of it.
    if !std::process::Command::new("chrt")
        .args(["--fifo", "1", "true"])
        .status()
        .is_ok_and(|status| status.success())
    {
        skip!("chrt --fifo fails here");
    }
    // Where the kernel shares real time out by group, a new group has none of it.
    if hierarchy("cpu").is_some_and(|cpu| cpu.join("cpu.rt_runtime_us").exists()) {
        bundle.set("/linux/resources/cpu", json!({"realtimePeriod": 1_000_000, "realtimeRuntime": 10_000}));
    }
    for scheduler in [
        json!({"policy": "SCHED_FIFO", "priority": 7, "flags": ["SCHED_FLAG_RESET_ON_FORK"]}),
        json!({"policy": "SCHED_RR", "priority": 3}),
        json!({"policy": "SCHED_DEADLINE", "runtime": 30_000_000, "deadline": 50_000_000, "period": 100_000_000}),
    ] {
        bundle.set("/process/scheduler", scheduler.clone());
        assert_scheduler(&bundle.report(), &scheduler);
    }
}

#[track_caller]
fn assert_scheduler(report: &Value, asked: &Value) {
    let have = &report["scheduler"];
    assert_eq!(format!("SCHED_{}", have["policy"].as_str().unwrap()), asked["policy"].as_str().unwrap());
    for member in ["nice", "priority", "runtime", "deadline", "period"] {
        if let Some(value) = asked.get(member) {
            assert_eq!(&have[member], value, "{asked}: {member}");
        }
    }
    if asked.get("flags").is_some() {
        assert_eq!(have["flags"].as_u64().unwrap() & 1, 1, "{asked}");
    }
}

#[test]
fn the_io_priority_is_set() {
    for (class, level) in [("IOPRIO_CLASS_BE", 6), ("IOPRIO_CLASS_RT", 2), ("IOPRIO_CLASS_IDLE", 0)] {
        let mut bundle = bundle!();
        bundle.set("/process/ioPriority", json!({"class": class, "priority": level}));
        let report = bundle.report();
        assert_eq!(format!("IOPRIO_CLASS_{}", report["ioprio"]["class"].as_str().unwrap()), class);
        assert_eq!(report["ioprio"]["level"], level, "{class}");
    }
}

#[test]
fn the_personality_is_set() {
    for (domain, number, machine) in [("LINUX", "00000000", "x86_64"), ("LINUX32", "00000008", "i686")] {
        let mut bundle = bundle!();
        bundle.set("/linux/personality", json!({"domain": domain}));
        let report = bundle.report();
        assert_eq!(report["personality"], number, "{domain}");
        if cfg!(target_arch = "x86_64") {
            assert_eq!(report["machine"], machine, "{domain}");
        }
    }
}

#[test]
fn the_memory_policy_is_set() {
    let mut bundle = bundle!();
    let kernel = bundle.report()["mempolicy"].clone();
    if kernel.get("error").is_some() {
        skip!("the kernel has no NUMA: {kernel}");
    }
    let table = [
        (json!({"mode": "MPOL_BIND", "nodes": "0"}), "BIND", 1, 0),
        (json!({"mode": "MPOL_INTERLEAVE", "nodes": "0"}), "INTERLEAVE", 1, 0),
        (
            json!({"mode": "MPOL_PREFERRED", "nodes": "0", "flags": ["MPOL_F_STATIC_NODES"]}),
            "PREFERRED",
            1,
            0x8000,
        ),
        (json!({"mode": "MPOL_LOCAL", "nodes": ""}), "LOCAL", 0, 0),
        (json!({"mode": "MPOL_DEFAULT", "nodes": ""}), "DEFAULT", 0, 0),
    ];
    for (asked, mode, nodes, flags) in table {
        bundle.set("/linux/memoryPolicy", asked.clone());
        let have = bundle.report()["mempolicy"].clone();
        assert_eq!(have, json!({"mode": mode, "nodes": nodes, "flags": flags}), "{asked}");
    }
}

#[test]
fn the_process_has_a_session_keyring_of_its_own() {
    let keyrings: Vec<i64> = (0..2).filter_map(|_| keyring(&[])).collect();
    if keyrings.is_empty() {
        skip!("needs root");
    }
    assert_ne!(keyrings[0], keyrings[1]);
}

#[test]
fn no_new_keyring_leaves_the_process_that_of_the_caller() {
    let keyrings: Vec<i64> = (0..2).filter_map(|_| keyring(&["--no-new-keyring"])).collect();
    if keyrings.is_empty() {
        skip!("needs root");
    }
    assert_eq!(keyrings[0], keyrings[1]);
}

/// The number of the session keyring that a new container sees; none without root.
fn keyring(options: &[&str]) -> Option<i64> {
    if !nix::unistd::geteuid().is_root() {
        return None;
    }
    let mut bundle = Bundle::new();
    bundle.args(&["/witness", "report"]);
    let report = bundle.birth("run", options).output().ok().json();
    Some(report["keyring"]["id"].as_i64().unwrap_or_else(|| panic!("no keyring: {}", report["keyring"])))
}

#[test]
fn no_signal_is_blocked_or_ignored_whatever_the_caller_does() {
    let mut bundle = bundle!();
    let words = ["/bin/grep", "Sig[BI]", "/proc/self/status"];
    bundle.args(&["/bin/sh", "-c", &format!("{}; exec sleep 60", words.join(" "))]).write_config();
    let ignoring = |call: Call| by_shell(&bundle, "trap '' HUP INT TERM USR1; exec \"$@\"", &call);
    let expected = "SigBlk:\t0000000000000000\nSigIgn:\t0000000000000000\n";
    let created = ignoring(bundle.birth("create", &[])).output().ok();
    bundle.start().ok();
    eventually("the first process has looked", || (created.stdout() == expected).then_some(()));
    let guest = ignoring(bundle.call(["exec", &bundle.id]).args(words)).output().ok();
    assert_eq!(guest.stdout(), expected);
}

#[test]
fn the_process_leads_a_session_of_its_own() {
    let mut bundle = bundle!();
    let report = bundle.report();
    assert_eq!((&report["sid"], &report["pgid"]), (&json!(1), &json!(1)));
}
