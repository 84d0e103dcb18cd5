//! Exec: further processes in a container, made like the first one.

use std::fs;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixListener;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

use crate::bundle::{Bundle, bundle, runtime, skip, wait_for};
use crate::call::{Call, Output, eventually};
use crate::cgroups::hierarchy;
use crate::terminal::receive_file;

/// `exec` with options before the id.
fn exec_with(bundle: &Bundle, options: &[&str], args: &[&str]) -> Output {
    bundle.call(["exec"]).args(options).arg(&bundle.id).args(args).output()
}

#[track_caller]
fn report_with(bundle: &Bundle, options: &[&str]) -> Value {
    exec_with(bundle, options, &["/witness", "report"]).ok().json()
}

/// `exec --process FILE`.
fn exec_process(bundle: &Bundle, process: &Value) -> Output {
    let file = bundle.scratch().join("process.json");
    fs::write(&file, process.to_string()).unwrap();
    bundle.call(["exec", "--process"]).arg(&file).arg(&bundle.id).output()
}

/// Podman without root calls from a user namespace, in a pid namespace that the host owns: setns(2) leads out of it
/// and not back.
#[test]
fn root_of_a_user_namespace_runs_processes_in_its_containers() {
    let mut bundle = bundle!();
    // Its one mapped group is root's.
    bundle.args(&["sleep", "1000"]).set("/mounts/2/options", json!(["newinstance", "ptmxmode=0666"]));
    bundle.write_config();
    let line = r#"r="$1 --root $2"; $r create --bundle $3 $4 && $r start $4 && $r exec $4 echo through; s=$?
        $r delete --force $4 && exit $s"#;
    let call =
        Call::new("unshare", &bundle.scratch()).args(["--user", "--map-root-user", "--mount", "sh", "-c"]);
    let call =
        call.args([line, "sh"]).arg(runtime()).arg(bundle.state_root()).arg(bundle.path()).arg(&bundle.id);
    assert_eq!(call.output().ok().stdout(), "through\n");
}

#[test]
fn exec_joins_every_namespace_and_cgroup_of_the_container() {
    let mut bundle = bundle!();
    bundle.add_namespace(json!({"type": "time"}));
    bundle.running();
    let report = report_with(&bundle, &[]);
    let pid = bundle.pid();
    for name in ["pid", "net", "mnt", "ipc", "uts", "cgroup", "time", "user"] {
        let held = fs::read_link(format!("/proc/{pid}/ns/{name}")).unwrap();
        assert_eq!(report["namespaces"][name], held.to_str().unwrap(), "{name}");
    }
    let cgroups = bundle.exec(&["/bin/cat", "/proc/1/cgroup"]).ok().stdout();
    assert_eq!(report["cgroup"], json!(cgroups.lines().collect::<Vec<_>>()));
}

#[test]
fn exec_joins_a_container_with_a_user_namespace() {
    let mut bundle = bundle!();
    crate::namespaces::map_users(&mut bundle);
    bundle.running();
    let report = report_with(&bundle, &["--user", "5:6"]);
    assert_eq!(report["uids"], json!([5, 5, 5]));
    assert_eq!(report["gids"], json!([6, 6, 6]));
    assert_eq!(report["uid_map"], json!(["0", "100000", "65536"]));
}

#[test]
fn exec_returns_the_exit_code_of_the_process() {
    let mut bundle = bundle!();
    bundle.running();
    assert_eq!(bundle.exec(&["/witness", "exit", "42"]).code(), 42);
    assert_eq!(bundle.exec(&["/bin/sh", "-c", "kill -KILL $$"]).code(), 128 + 9);
}

#[test]
fn words_behind_the_id_belong_to_the_process() {
    let mut bundle = bundle!();
    bundle.running();
    let output = bundle.exec(&["/bin/echo", "--detach", "-t", "--help"]).ok();
    assert_eq!(output.stdout(), "--detach -t --help\n");
}

#[test]
fn exec_takes_identity_and_limits_from_the_config() {
    let mut bundle = bundle!();
    bundle.set("/process/user", json!({"uid": 1000, "gid": 1001, "additionalGids": [5], "umask": 0o027}));
    bundle.set("/process/cwd", json!("/etc")).set("/process/env", json!(["PATH=/bin", "A=b"]));
    bundle.set("/process/oomScoreAdj", json!(321));
    bundle.running();
    let report = report_with(&bundle, &[]);
    assert_eq!(report["uids"], json!([1000, 1000, 1000]));
    assert_eq!(report["gids"], json!([1001, 1001, 1001]));
    assert_eq!(report["groups"], json!([5]));
    assert_eq!(report["umask"], "0027");
    assert_eq!(report["cwd"], "/etc");
    assert_eq!(report["rlimits"]["RLIMIT_NOFILE"], json!([1024, 1024]));
    assert_eq!(report["no_new_privs"], "1");
    assert_eq!(report["oom_score_adj"], "321");
    assert!(report["env"].as_array().unwrap().contains(&json!("A=b")));
    assert_eq!(report["fds"].as_object().unwrap().len(), 3, "{}", report["fds"]);
}

#[test]
fn options_of_exec_change_the_process() {
    let mut bundle = bundle!();
    bundle.set("/process/noNewPrivileges", json!(false));
    bundle.running();
    let options = [
        "--cwd",
        "/etc",
        "--env",
        "A=1",
        "-e",
        "B=two words",
        "--user",
        "7:8",
        "--additional-gids",
        "9",
        "-g",
        "10",
        "--no-new-privs",
    ];
    let report = report_with(&bundle, &options);
    assert_eq!(report["cwd"], "/etc");
    assert_eq!((&report["uid"], &report["gid"]), (&json!(7), &json!(8)));
    assert_eq!(report["groups"], json!([9, 10]));
    assert_eq!(report["no_new_privs"], "1");
    let env = report["env"].as_array().unwrap();
    for variable in ["A=1", "B=two words", "TERM=xterm"] {
        assert!(env.contains(&json!(variable)), "{variable}: {env:?}");
    }
}

#[test]
fn a_user_given_as_a_number_is_that_user() {
    // CVE-2026-30892: a lone number was read as root.
    let mut bundle = bundle!();
    bundle.running();
    for (user, uid, gid) in [("1", 1, 0), ("1:2", 1, 2), ("1000", 1000, 0), ("0", 0, 0)] {
        let report = report_with(&bundle, &["--user", user]);
        assert_eq!((&report["uid"], &report["gid"]), (&json!(uid), &json!(gid)), "--user {user}");
    }
    for user in ["abc", "4294967295", "1:abc", "1:", "4294967296"] {
        let output = exec_with(&bundle, &["--user", user], &["/bin/id"]);
        assert_ne!(output.code(), 0, "--user {user:?}");
        assert_eq!(output.stdout(), "", "--user {user:?} ran something");
    }
}

#[test]
fn capabilities_given_to_exec_are_not_inheritable() {
    // CVE-2022-29162, CVE-2022-27650, CVE-2025-27612.
    let mut bundle = bundle!();
    bundle.running();
    let report = report_with(&bundle, &["--cap", "CAP_NET_ADMIN"]);
    let have = &report["capabilities"];
    assert_eq!(have["inheritable"], json!([]));
    for set in ["bounding", "permitted", "effective"] {
        assert!(have[set].as_array().unwrap().contains(&json!("CAP_NET_ADMIN")), "{set}: {have}");
    }
    assert_eq!(report_with(&bundle, &[])["capabilities"]["inheritable"], json!([]));
}

#[test]
fn a_process_file_says_everything() {
    let mut bundle = bundle!();
    bundle.running();
    let process = json!({
        "args": ["/witness", "report"], "cwd": "/tmp", "env": ["ONLY=this"],
        "user": {"uid": 3, "gid": 4, "additionalGids": [6]},
        "capabilities": {"bounding": ["CAP_CHOWN"]},
        "rlimits": [{"type": "RLIMIT_NOFILE", "soft": 33, "hard": 44}],
        "noNewPrivileges": true, "oomScoreAdj": 222,
    });
    let report = exec_process(&bundle, &process).ok().json();
    assert_eq!(report["cwd"], "/tmp");
    assert!(report["env"].as_array().unwrap().contains(&json!("ONLY=this")));
    assert!(!report["env"].to_string().contains("TERM="));
    assert_eq!((&report["uid"], &report["gid"], &report["groups"]), (&json!(3), &json!(4), &json!([6])));
    assert_eq!(report["capabilities"]["bounding"], json!(["CAP_CHOWN"]));
    assert_eq!(report["capabilities"]["effective"], json!([]));
    assert_eq!(report["rlimits"]["RLIMIT_NOFILE"], json!([33, 44]));
    assert_eq!(report["no_new_privs"], "1");
    assert_eq!(report["oom_score_adj"], "222");
}

#[test]
fn a_bad_process_file_is_refused_with_its_path() {
    let mut bundle = bundle!();
    bundle.running();
    let table = [
        (json!({"cwd": "/", "user": {"uid": 0, "gid": 0}, "args": []}), "args"),
        (json!({"cwd": "relative", "user": {"uid": 0, "gid": 0}, "args": ["/bin/true"]}), "cwd"),
        (json!({"cwd": 7, "user": {"uid": 0, "gid": 0}, "args": ["/bin/true"]}), "cwd"),
    ];
    for (process, path) in table {
        exec_process(&bundle, &process).refused(255, &[path]);
    }
}

#[test]
fn a_detached_exec_leaves_its_pid_and_goes_on() {
    let mut bundle = bundle!();
    bundle.running();
    let pid = bundle.exec_detached(&[], &["/bin/sh", "-c", "sleep 0.01; exit 12"]);
    assert_eq!(wait_for(pid), 12);
    bundle.assert_status("running");
}

#[test]
fn exec_forwards_signals_to_its_process() {
    let mut bundle = bundle!();
    bundle.running();
    let exec = bundle.call(["exec", &bundle.id, "/witness", "signal-wait"]).spawn();
    eventually("the witness waits", || exec.stdout().contains("ready").then_some(()));
    kill(Pid::from_raw(exec.pid()), Signal::SIGHUP).unwrap();
    assert_eq!(exec.wait().ok().stdout(), "ready\nSIGHUP\n");
}

#[test]
fn exec_works_in_a_created_container_and_not_in_a_stopped_one() {
    let mut bundle = bundle!();
    bundle.exec(&["/bin/true"]).refused(255, &["does not exist"]);
    bundle.args(&["/bin/true"]);
    bundle.create().ok();
    assert_eq!(bundle.exec(&["/bin/echo", "early"]).ok().stdout(), "early\n");
    bundle.start().ok();
    bundle.wait();
    bundle.exec(&["/bin/true"]).refused(255, &["cannot exec in a stopped container"]);
}

#[test]
fn exec_says_why_a_program_cannot_run() {
    let mut bundle = bundle!();
    bundle.running();
    bundle.exec(&["nothing"]).refused(255, &["exec: \"nothing\": executable file not found in $PATH"]);
    bundle
        .exec(&["/no/thing"])
        .refused(255, &["exec: \"/no/thing\": stat /no/thing: no such file or directory"]);
    bundle.exec(&["/etc/passwd"]).refused(255, &["permission denied"]);
    let pid_file = bundle.scratch().join("none");
    let detached =
        bundle.call(["exec", "--detach", "--pid-file"]).arg(&pid_file).args([&bundle.id, "nothing"]);
    detached.output().refused(255, &["executable file not found in $PATH"]);
    assert!(!pid_file.exists());
}

#[test]
fn exec_passes_preserved_descriptors_and_no_others() {
    let mut bundle = bundle!();
    bundle.running();
    let call = bundle.call(["exec", "--preserve-fds", "1", &bundle.id, "/witness", "fd-list"]);
    let fds =
        crate::descriptors::with_files(&bundle, call, "3</etc/passwd 4</etc/group").output().ok().json();
    let numbers: Vec<&String> = fds.as_object().unwrap().keys().collect();
    assert_eq!(numbers, ["0", "1", "2", "3"], "{fds}");
}

#[test]
fn stdin_of_exec_reaches_the_process() {
    let mut bundle = bundle!();
    bundle.running();
    let input = bundle.scratch().join("input");
    fs::write(&input, "for exec\n").unwrap();
    let call = bundle.call(["exec", &bundle.id, "/bin/cat"]).stdin(fs::File::open(&input).unwrap());
    assert_eq!(call.output().ok().stdout(), "for exec\n");
}

#[test]
fn the_pidfd_socket_of_exec_receives_a_pidfd_of_its_process() {
    let mut bundle = bundle!();
    bundle.running();
    let path = bundle.scratch().join("pidfd.sock");
    let listener = UnixListener::bind(&path).unwrap();
    let pid = bundle.exec_detached(&["--pidfd-socket", path.to_str().unwrap()], &["/bin/sleep", "60"]);
    let (pidfd, _) = receive_file(&listener);
    let info = fs::read_to_string(format!("/proc/self/fdinfo/{}", pidfd.as_raw_fd())).unwrap();
    assert!(info.contains(&format!("Pid:\t{pid}\n")), "{info}");
}

#[test]
fn many_execs_at_once_all_run() {
    let mut bundle = bundle!();
    bundle.running();
    let calls: Vec<_> = (0..8)
        .map(|n| bundle.call(["exec", &bundle.id, "/witness", "exit", &n.to_string()]).spawn())
        .collect();
    for (n, call) in calls.into_iter().enumerate() {
        assert_eq!(call.wait().code(), n as i32);
    }
}

#[test]
fn an_exec_process_ends_with_its_container() {
    let mut bundle = bundle!();
    bundle.running();
    let pid = bundle.exec_detached(&[], &["/bin/sleep", "60"]);
    bundle.kill("KILL").ok();
    assert_eq!(wait_for(pid), 128 + 9);
    bundle.wait();
}

#[test]
fn two_dashes_before_the_program_are_no_part_of_it() {
    let mut bundle = bundle!();
    bundle.running();
    assert_eq!(bundle.exec(&["--", "/bin/echo", "--", "a"]).ok().stdout(), "-- a\n");
    let options = bundle.call(["exec", "--cwd", "/etc", &bundle.id, "--", "pwd"]).output().ok();
    assert_eq!(options.stdout(), "/etc\n");
    bundle.exec(&["--"]).refused(255, &["no program is named"]);
}

#[test]
fn an_exec_process_runs_on_the_cpus_that_are_asked_for() {
    let mut bundle = bundle!();
    let cpus = std::thread::available_parallelism().unwrap().get();
    if cpus < 2 {
        skip!("needs two processors");
    }
    bundle.set("/process/execCPUAffinity", json!({"initial": "1", "final": "0"}));
    bundle.running();
    assert_eq!(report_with(&bundle, &[])["affinity"], json!([0]));
    let asked = json!({"cwd": "/", "args": ["/witness", "report"], "execCPUAffinity": {"final": "1"}});
    assert_eq!(exec_process(&bundle, &asked).ok().json()["affinity"], json!([1]));
    // It is about further processes, and not about the first.
    let init = fs::read_to_string(format!("/proc/{}/status", bundle.pid())).unwrap();
    assert!(!init.contains("Cpus_allowed_list:\t0\n"), "{init}");
}

#[test]
fn the_cpus_on_which_an_exec_begins_need_not_be_the_containers() {
    let mut bundle = bundle!();
    let cpus = std::thread::available_parallelism().unwrap().get();
    if cpus < 2 || hierarchy("cpuset").is_none() {
        skip!("needs two processors and cpusets");
    }
    bundle.set("/linux/resources/cpu/cpus", json!("0"));
    bundle.set("/process/execCPUAffinity", json!({"initial": "1"}));
    bundle.running();
    assert_eq!(report_with(&bundle, &[])["affinity"], json!([0]));
}

/// Makes a group below the container's own on every hierarchy, as a service manager inside would.
fn make_group_below(bundle: &Bundle, name: &str) {
    for hierarchy in crate::traces::hierarchies() {
        let group = hierarchy.join(&bundle.id);
        fs::create_dir(group.join(name)).unwrap();
        // A v1 cpuset takes nobody before it has processors and memory.
        for file in ["cpuset.cpus", "cpuset.mems"] {
            if !crate::cgroups::unified()
                && let Ok(value) = fs::read(group.join(file))
            {
                fs::write(group.join(name).join(file), value).unwrap();
            }
        }
    }
}

/// `/proc/self/cgroup` of an exec with these options, as the host sees it.
fn groups_of(bundle: &Bundle, options: &[&str]) -> Vec<String> {
    let pid = bundle.exec_detached(options, &["/bin/sleep", "60"]);
    let text = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
    text.lines().map(|line| line.rsplit(':').next().unwrap().to_string()).collect()
}

#[test]
fn exec_goes_into_a_group_below_that_of_the_container() {
    let mut bundle = bundle!();
    bundle.running();
    make_group_below(&bundle, "below");
    for path in ["below", "/below", "./below/"] {
        let groups = groups_of(&bundle, &["--cgroup", path]);
        let inside = groups.iter().filter(|group| group.ends_with(&format!("{}/below", bundle.id)));
        assert_eq!(inside.count(), crate::traces::hierarchies().len(), "--cgroup {path}: {groups:?}");
    }
}

#[test]
fn exec_leaves_the_group_of_the_container_on_the_named_hierarchy_alone() {
    if crate::cgroups::unified() || crate::cgroups::hierarchy("pids").is_none() {
        skip!("one hierarchy has all controllers");
    }
    let mut bundle = bundle!();
    bundle.running();
    make_group_below(&bundle, "below");
    let groups = groups_of(&bundle, &["--cgroup", "pids:below"]);
    assert_eq!(groups.iter().filter(|group| group.ends_with("/below")).count(), 1, "{groups:?}");
    exec_with(&bundle, &["--cgroup", "nonsense:below"], &["/bin/true"]).refused(255, &["nonsense"]);
}

#[test]
fn exec_does_not_go_into_a_group_that_is_not_below() {
    let mut bundle = bundle!();
    bundle.running();
    // One whose path begins as the container's does.
    let siblings: Vec<_> =
        crate::traces::hierarchies().iter().map(|one| one.join(format!("{}-sibling", bundle.id))).collect();
    siblings.iter().for_each(|sibling| fs::create_dir(sibling).unwrap());
    for path in [format!("../{}-sibling", bundle.id), format!("below/../../{}-sibling", bundle.id)] {
        exec_with(&bundle, &["--cgroup", &path], &["/bin/true"]).refused(255, &["--cgroup", "leaves"]);
    }
    for path in ["-sibling", "none"] {
        exec_with(&bundle, &[&format!("--cgroup={path}")], &["/bin/true"])
            .refused(255, &[path, "No such file or directory"]);
    }
    siblings.iter().for_each(|sibling| fs::remove_dir(sibling).unwrap());
}

#[test]
fn exec_says_what_a_cpuset_lacks() {
    let Some(cpuset) = crate::cgroups::hierarchy("cpuset").filter(|_| !crate::cgroups::on_v2("cpuset"))
    else {
        skip!("a v2 cpuset has what the one above has");
    };
    let mut bundle = bundle!();
    bundle.running();
    fs::create_dir(cpuset.join(&bundle.id).join("below")).unwrap();
    exec_with(&bundle, &["--cgroup", "cpuset:below"], &["/bin/true"])
        .refused(255, &["cpuset has no processors"]);
}

#[test]
fn exec_follows_an_init_that_has_moved_down_and_is_not_in_the_way_of_what_it_does_next() {
    if !crate::cgroups::unified() {
        skip!("v1 groups take processes wherever they are");
    }
    let mut bundle = bundle!();
    let mounts = bundle.config["mounts"].as_array_mut().unwrap();
    mounts.last_mut().unwrap()["options"] = json!(["nosuid", "noexec", "nodev", "rw"]);
    // What systemd does first. A group hands nothing down while there are processes in it.
    bundle.shell(
        "cd /sys/fs/cgroup && mkdir init.scope && echo 1 > init.scope/cgroup.procs && echo moved; \
         until [ -d go ]; do sleep 0.1; done; echo +pids > cgroup.subtree_control && echo divided; exec sleep 60",
    );
    let output = bundle.create().ok();
    bundle.start().ok();
    let follows_once_it_has = |step: &str| {
        eventually(step, || output.stdout().contains(step).then_some(()));
        let groups = groups_of(&bundle, &[]);
        assert!(groups[0].ends_with(&format!("{}/init.scope", bundle.id)), "{groups:?}");
        assert_eq!(bundle.exec(&["/bin/cat", "/proc/self/cgroup"]).ok().stdout(), "0::/init.scope\n");
    };
    follows_once_it_has("moved");
    bundle.exec_detached(&[], &["/bin/sh", "-c", "mkdir /sys/fs/cgroup/go; exec sleep 60"]);
    follows_once_it_has("divided");
}

#[test]
fn exec_into_a_container_that_is_about_to_stop_either_runs_or_says_that_it_has_stopped() {
    let mut bundle = bundle!();
    bundle.running();
    let calls: Vec<_> = (0..12)
        .map(|number| {
            if number == 4 {
                bundle.kill("KILL").ok();
            }
            bundle.call(["exec", &bundle.id, "/witness", "exit", "3"]).spawn()
        })
        .collect();
    for call in calls {
        let output = call.wait();
        match output.code() {
            // It ran, or ended with the container.
            3 | 137 => {}
            _ => drop(output.refused(255, &[])),
        }
    }
    bundle.wait();
    bundle.exec(&["/bin/true"]).refused(255, &["cannot exec in a stopped container"]);
}
