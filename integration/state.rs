//! State on disk: the root directory, exclusion, atomic files, identity of pids, and what a killed runtime leaves.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::os::unix::process::CommandExt;
use std::thread;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::json;

use crate::bundle::{bundle, runtime, skip};
use crate::call::{Call, DEADLINE, affordable, ends, eventually};
use crate::traces::Traces;

#[test]
fn the_root_directory_is_made_for_its_owner_alone() {
    let bundle = bundle!();
    assert!(!bundle.state_root().exists());
    bundle.create().ok();
    let metadata = fs::metadata(bundle.state_root()).unwrap();
    assert_eq!(metadata.permissions().mode() & 0o777, 0o700);
    assert_eq!(metadata.permissions().mode() & 0o1000, 0o1000, "sticky, which keeps cleaners of /run away");
    assert_eq!(metadata.uid(), nix::unistd::geteuid().as_raw());
}

#[test]
fn containers_of_one_root_are_not_seen_in_another() {
    let bundle = bundle!();
    bundle.create().ok();
    let other = bundle.scratch().join("other");
    let call = Call::new(runtime(), &bundle.scratch());
    let output = call.arg("--root").arg(&other).args(["state", &bundle.id]).output();
    output.refused(1, &["does not exist"]);
}

#[test]
fn looking_needs_no_root_directory_and_makes_none() {
    let bundle = bundle!();
    bundle.verb("state", &[]).refused(1, &["does not exist"]);
    bundle.call(["list", "--quiet"]).output().ok();
    assert!(!bundle.state_root().exists());
}

#[test]
fn a_relative_root_is_below_the_working_directory() {
    let bundle = bundle!();
    bundle.write_config();
    let call = |words: &[&str]| {
        let mut call = Call::new(runtime(), &bundle.scratch()).args(["--root", "relative"]);
        call.command.current_dir(bundle.scratch());
        call.args(words).output()
    };
    call(&["create", "--bundle", bundle.path().to_str().unwrap(), &bundle.id]).ok();
    assert!(bundle.scratch().join("relative").join(&bundle.id).exists());
    call(&["delete", "--force", &bundle.id]).ok();
}

#[test]
fn who_is_not_root_has_a_root_directory_in_xdg_runtime_dir() {
    let mut bundle = bundle!();
    let (runtime_dir, copy) = (bundle.scratch().join("xdg"), bundle.copy_of_runtime());
    fs::create_dir(&runtime_dir).unwrap();
    // A container of root's, given to somebody else together with all that says so.
    bundle.running();
    symlink(bundle.state_root(), runtime_dir.join("corten")).unwrap();
    let mut chown = std::process::Command::new("chown");
    let given = chown.args(["-R", "65534:65534"]).args([bundle.state_root(), runtime_dir.clone()]).status();
    assert!(given.unwrap().success());
    let mut call =
        Call::new(copy, &bundle.scratch()).args(["list", "--quiet"]).env("XDG_RUNTIME_DIR", &runtime_dir);
    call.command.uid(65534).gid(65534).current_dir("/");
    assert_eq!(call.output().ok().stdout(), format!("{}\n", bundle.id));
}

/// Podman without root calls from a user namespace in which it is root, and passes XDG_RUNTIME_DIR but not USER.
#[test]
fn root_of_a_users_namespace_has_a_root_directory_in_xdg_runtime_dir() {
    let mut bundle = bundle!();
    let runtime_dir = bundle.scratch().join("xdg");
    fs::create_dir(&runtime_dir).unwrap();
    bundle.running();
    symlink(bundle.state_root(), runtime_dir.join("corten")).unwrap();
    let listed = |user: Option<&str>, words: &[&str]| {
        let mut call = Call::new(words[0], &bundle.scratch()).args(&words[1..]);
        call = call.arg(runtime()).args(["list", "--quiet"]).env("XDG_RUNTIME_DIR", &runtime_dir);
        match user {
            Some(user) => call.command.env("USER", user),
            None => call.command.env_remove("USER"),
        };
        call.output().ok().stdout().contains(&bundle.id)
    };
    let in_a_namespace = ["unshare", "--user", "--map-root-user"];
    assert!(listed(None, &in_a_namespace));
    assert!(listed(Some("somebody"), &in_a_namespace));
    assert!(!listed(Some("root"), &in_a_namespace), "root of a system container");
    assert!(!listed(Some("somebody"), &["env"]), "root itself, whatever it is called");
}

#[test]
fn delete_leaves_the_root_directory_empty() {
    let bundle = bundle!();
    bundle.create().ok();
    assert!(fs::read_dir(bundle.state_root()).unwrap().count() > 0);
    bundle.verb("delete", &["--force"]).ok();
    assert_eq!(fs::read_dir(bundle.state_root()).unwrap().count(), 0);
}

#[test]
fn of_many_deletes_at_once_all_end_and_nothing_is_left() {
    let mut bundle = bundle!();
    bundle.running();
    let calls: Vec<_> = (0..6).map(|_| bundle.call(["delete", "--force", &bundle.id]).spawn()).collect();
    for call in calls {
        call.wait().ok();
    }
    bundle.assert_nothing_left("six deletes");
}

#[test]
fn one_of_many_starts_wins() {
    let mut bundle = bundle!();
    bundle.args(&["/witness", "signal-wait"]);
    let output = bundle.create().ok();
    let calls: Vec<_> = (0..6).map(|_| bundle.call(["start", &bundle.id]).spawn()).collect();
    let won = calls.into_iter().map(|call| call.wait()).filter(|output| output.code() == 0).count();
    assert_eq!(won, 1);
    eventually("the witness waits for a signal", || output.stdout().contains("ready").then_some(()));
    bundle.kill("TERM").ok();
    bundle.wait();
    assert_eq!(output.stdout(), "ready\nSIGTERM\n");
}

#[test]
fn a_create_during_a_delete_finds_all_or_nothing() {
    let mut bundle = bundle!();
    bundle.args(&["/witness", "signal-wait"]);
    bundle.create().ok();
    let delete = bundle.call(["delete", "--force", &bundle.id]).spawn();
    let create = bundle.birth("create", &[]).spawn();
    delete.wait().ok();
    if create.wait().code() == 0 {
        bundle.assert_status("created");
    } else {
        bundle.assert_nothing_left("create and delete at once");
    }
}

#[test]
fn looking_never_sees_half_a_state() {
    let mut bundle = bundle!();
    bundle.args(&["/witness", "signal-wait"]);
    let create = bundle.birth("create", &[]).spawn();
    let mut seen = Vec::new();
    loop {
        let output = bundle.verb("state", &[]);
        if output.code() == 0 {
            let status = output.json()["status"].as_str().expect("a status").to_string();
            if status == "created" {
                break;
            }
            assert_eq!(status, "creating");
        } else {
            assert!(output.stderr.contains("does not exist"), "{output}");
        }
        seen.push(output.code());
        assert!(seen.len() < 10_000);
    }
    create.wait().ok();
}

/// At how many moments a runtime is killed where everything takes long.
const MOMENTS: usize = 15;

#[test]
fn a_runtime_killed_at_any_moment_of_create_leaves_what_delete_by_force_removes() {
    // The pause grows over the length of a create; what must hold does not depend on where it hits.
    for step in affordable(0..60, MOMENTS) {
        let mut bundle = bundle!();
        bundle.args(&["/bin/sleep", "60"]);
        bundle.set("/hooks/createRuntime", json!([{"path": "/bin/true"}]));
        let create = bundle.birth("create", &[]).spawn();
        thread::sleep(Duration::from_micros(250 * step));
        // It may be done already.
        let _ = kill(Pid::from_raw(create.pid()), Signal::SIGKILL);
        create.wait();
        bundle.verb("delete", &["--force"]).ok();
        let left = Traces::of(&bundle.id, &[&bundle.state_root()]);
        Traces::default().assert_same(&left, &format!("killed after {} us, then deleted: it", 250 * step));
    }
}

#[test]
fn a_runtime_killed_at_any_moment_of_run_leaves_what_delete_by_force_removes() {
    for step in affordable(0..30, MOMENTS) {
        let mut bundle = bundle!();
        bundle.args(&["/bin/sleep", "60"]);
        let run = bundle.birth("run", &[]).spawn();
        thread::sleep(Duration::from_micros(500 * step));
        kill(Pid::from_raw(run.pid()), Signal::SIGKILL).unwrap();
        run.wait();
        bundle.verb("delete", &["--force"]).ok();
        bundle.assert_nothing_left(&format!("run killed after {} us, then deleted,", 500 * step));
    }
}

#[test]
fn a_runtime_killed_at_any_moment_of_delete_leaves_what_delete_by_force_removes() {
    for step in affordable(0..20, MOMENTS) {
        let mut bundle = bundle!();
        bundle.args(&["/bin/sleep", "60"]);
        bundle.create().ok();
        let delete = bundle.call(["delete", "--force", &bundle.id]).spawn();
        thread::sleep(Duration::from_micros(250 * step));
        // It may be done already.
        let _ = kill(Pid::from_raw(delete.pid()), Signal::SIGKILL);
        delete.wait();
        bundle.verb("delete", &["--force"]).ok();
        bundle.assert_nothing_left(&format!("delete killed after {} us, then repeated,", 250 * step));
    }
}

#[test]
fn a_container_whose_creator_was_killed_can_be_made_again() {
    let mut bundle = bundle!();
    let (runs, end) = (bundle.scratch().join("runs"), bundle.scratch().join("end"));
    let line = format!("echo $$ > {}; until test -e {}; do sleep 0.01; done", runs.display(), end.display());
    bundle.set("/hooks/createRuntime", json!([{"path": "/bin/sh", "args": ["sh", "-c", line]}]));
    let create = bundle.birth("create", &[]).spawn();
    let hook = eventually("the hook runs", || fs::read_to_string(&runs).ok()?.trim().parse().ok());
    kill(Pid::from_raw(create.pid()), Signal::SIGKILL).unwrap();
    create.wait();
    bundle.verb("delete", &["--force"]).ok();
    fs::write(&end, "").unwrap();
    assert!(ends(hook, DEADLINE), "the hook still runs");
    bundle.unset("", "hooks");
    bundle.args(&["/bin/echo", "again"]);
    assert_eq!(bundle.run().ok().stdout(), "again\n");
}

#[test]
fn a_pid_that_belongs_to_somebody_else_is_not_believed() {
    let mut bundle = bundle!();
    bundle.running();
    let pid = bundle.pid();
    bundle.kill("KILL").ok();
    bundle.wait();
    // Two processes that begin in the same hundredth of a second are one to the state, but cannot have one number.
    thread::sleep(Duration::from_millis(20));
    // The state is made to name a living process that is not init, as when the kernel reuses a number.
    let mut stranger = std::process::Command::new("sleep").arg("60").spawn().unwrap();
    let room = bundle.state_root().join(&bundle.id);
    let mut changed = 0;
    // A gate of named pipes is no text, and would be waited for.
    let files = fs::read_dir(&room).unwrap().flatten();
    for entry in files.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_file())) {
        let Ok(text) = fs::read_to_string(entry.path()) else { continue };
        let other = text.replace(&pid.to_string(), &stranger.id().to_string());
        if other != text {
            fs::write(entry.path(), other).unwrap();
            changed += 1;
        }
    }
    assert!(changed > 0, "the state names init's pid nowhere");
    bundle.assert_status("stopped");
    bundle.kill("KILL").refused(1, &["container not running"]);
    bundle.verb("delete", &["--force"]).ok();
    assert!(stranger.try_wait().unwrap().is_none(), "a stranger was killed");
    stranger.kill().unwrap();
    stranger.wait().unwrap();
}

#[test]
fn start_works_from_another_mount_namespace() {
    let mut bundle = bundle!();
    bundle.args(&["/witness", "exit", "3"]);
    bundle.create().ok();
    let start = bundle.call(["start", &bundle.id]);
    let words: Vec<_> = start.command.get_args().map(std::ffi::OsStr::to_os_string).collect();
    let call = Call::new("unshare", &bundle.scratch()).args(["--mount"]).arg(start.command.get_program());
    call.args(words).output().ok();
    assert_eq!(bundle.wait(), 3);
}

#[test]
fn a_link_among_the_containers_is_not_followed() {
    let bundle = bundle!();
    let victim = bundle.scratch().join("victim");
    fs::create_dir(&victim).unwrap();
    fs::write(victim.join("precious"), "").unwrap();
    fs::create_dir_all(bundle.state_root()).unwrap();
    let link = bundle.state_root().join(&bundle.id);
    symlink(&victim, &link).unwrap();
    bundle.verb("delete", &["--force"]).refused(1, &["state/", "Not a directory"]);
    assert!(victim.join("precious").exists());
    fs::remove_file(link).unwrap();
}
