//! Checkpoint and restore, with a real criu: what goes on afterwards as if nothing had been, what is refused, and that
//! an image or a root filesystem cannot talk the runtime into more than the configuration says.

use std::fs;
use std::io::Read;
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use serde_json::json;

use crate::bundle::{Bundle, bundle, skip};
use crate::call::eventually;
use crate::criu::{PATIENCE, criu_bundle, dump_connected, has, keeps_no_new_privileges};
use crate::terminal::{Screen, created, receive_file};

#[test]
fn a_counter_goes_on_counting_where_it_was() {
    let mut bundle = criu_bundle!();
    bundle.counting();
    let before = bundle.traces();
    bundle.checkpoint(&[]).ok();
    assert_eq!(bundle.wait(), 128 + 9);
    bundle.verb("state", &[]).refused(1, &["does not exist"]);
    bundle.assert_nothing_left("checkpoint");
    let count = bundle.count();
    bundle.restore(&[]).ok();
    bundle.assert_counts_on_from(count);
    assert_eq!(bundle.state()["pid"], bundle.pid());
    let after = bundle.traces();
    assert_eq!(before.mounts, after.mounts, "mounts on the host");
    assert_eq!(before.cgroups, after.cgroups);

    // And it is a container like any other.
    let inside = bundle.exec(&["/bin/ps", "-o", "pid,args"]).ok();
    assert!(inside.stdout().contains("1 /bin/sh -c exec"), "{inside}");
    bundle.verb("ps", &["--format", "json"]).ok();
    bundle.verb("pause", &[]).ok();
    bundle.verb("resume", &[]).ok();
    bundle.kill("KILL").ok();
    assert_eq!(bundle.wait(), 128 + 9);
    bundle.assert_status("stopped");
    bundle.delete().ok();
    bundle.assert_nothing_left("delete");
}

#[test]
fn a_restored_container_is_in_its_own_namespaces_group_and_limits() {
    let mut bundle = criu_bundle!();
    bundle.set("/linux/resources/pids", json!({"limit": 7}));
    bundle.counting();
    let probe = [
        "/bin/sh",
        "-c",
        "cut -d' ' -f5,6 /proc/1/mountinfo; grep -E 'Cap|NoNew|Seccomp:' /proc/1/status; hostname; \
         cut -d: -f2,3 /proc/1/cgroup; for own in /proc/self/ns/*; do \
         test $(readlink $own) = $(readlink /proc/1/ns/${own##*/}) || echo other $own; done",
    ];
    let before = bundle.exec(&probe).ok().stdout();
    bundle.dump(&[]);
    bundle.restore(&[]).ok();
    let sorted = |text: &str| {
        let mut lines: Vec<String> = text.lines().map(String::from).collect();
        lines.sort();
        lines
    };
    assert_eq!(sorted(&bundle.exec(&probe).ok().stdout()), sorted(&before));
    let groups = fs::read_to_string(format!("/proc/{}/cgroup", bundle.pid())).unwrap();
    assert!(groups.contains(&bundle.id), "{groups}");
    // The limit counts the shell, its sleep, and what follows.
    let crowd = bundle.exec(&["/bin/sh", "-c", "for i in 1 2 3 4 5 6 7 8; do sleep 5 & done; wait"]);
    assert_ne!(crowd.code(), 0, "{crowd}");
}

/// The v1 hierarchies that the host has and has not mounted. CRIU finds and mounts them; no container has a group there.
fn hierarchies_elsewhere() -> Vec<String> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let mounted = |name: &str| {
        let cgroup = mounts.lines().filter(|line| line.contains(" - cgroup "));
        cgroup.flat_map(|line| line.rsplit([' ', ','])).any(|option| option == name)
    };
    let table = fs::read_to_string("/proc/self/cgroup").unwrap();
    let names = table.lines().filter_map(|line| line.split(':').nth(1));
    names.filter(|names| !names.is_empty() && !names.split(',').any(mounted)).map(String::from).collect()
}

#[test]
fn a_restore_makes_no_groups_where_the_container_had_none() {
    let mut bundle = criu_bundle!();
    let hierarchies = hierarchies_elsewhere();
    if hierarchies.is_empty() {
        skip!("every hierarchy of v1 is mounted, or there are none");
    }
    bundle.working("while sleep 0.1; do :; done");
    bundle.dump(&[]);
    bundle.restore(&[]).ok();
    let place = bundle.scratch().join("groups");
    fs::create_dir(&place).unwrap();
    let line = "mount -t cgroup -o $1 none $2 && find $2 -name $3 -exec echo made: {} + && echo seen";
    for hierarchy in hierarchies {
        let look = || {
            let mut command = Command::new("unshare");
            command.args(["--mount", "sh", "-c", line, "sh", &hierarchy]).arg(&place).arg(&bundle.id);
            let said = String::from_utf8(command.output().unwrap().stdout).unwrap();
            // criu takes its own mount down at the same time.
            said.contains("seen").then_some(said)
        };
        assert_eq!(eventually("its groups are seen", look), "seen\n", "{hierarchy}");
    }
}

#[test]
fn a_container_that_is_left_running_is_there_still_and_can_be_restored_later() {
    let mut bundle = criu_bundle!();
    // It has no file open, which would have to be as it was.
    bundle.working("trap 'touch /tmp/heard' USR1; touch /tmp/heard; while sleep 0.05; do :; done");
    let heard = bundle.rootfs().join("tmp/heard");
    let hears = || eventually("it hears", || fs::remove_file(&heard).ok());
    hears();
    bundle.checkpoint(&["--leave-running"]).ok();
    bundle.kill("USR1").ok();
    hears();
    bundle.verb("delete", &["--force"]).ok();
    bundle.wait();
    bundle.restore(&[]).ok();
    bundle.kill("USR1").ok();
    hears();
}

#[test]
fn a_paused_container_can_be_checkpointed() {
    let mut bundle = criu_bundle!();
    bundle.counting();
    bundle.verb("pause", &[]).ok();
    let count = bundle.count();
    bundle.dump(&[]);
    bundle.restore(&[]).ok();
    bundle.assert_counts_on_from(count);
}

#[test]
fn memory_that_was_dumped_before_is_taken_from_the_parent() {
    let mut bundle = criu_bundle!();
    if !has("mem_dirty_track") {
        bundle.counting();
        let images = bundle.scratch().join("before");
        bundle.checkpoint_to(&images, &["--pre-dump"]).refused(1, &["criu cannot follow changes of memory"]);
        bundle.assert_counts_on_from(bundle.count());
        skip!("criu cannot follow changes of memory on this kernel");
    }
    bundle.counting();
    bundle.checkpoint_to(&bundle.scratch().join("before"), &["--pre-dump"]).ok();
    bundle.assert_counts_on_from(bundle.count());
    bundle.dump(&["--parent-path", "../before"]);
    assert!(bundle.images().join("parent").exists(), "the image has a parent");
    let count = bundle.count();
    bundle.restore(&[]).ok();
    bundle.assert_counts_on_from(count);
}

#[test]
fn a_parent_must_be_a_directory_beside_the_image() {
    let mut bundle = criu_bundle!();
    bundle.counting();
    bundle.checkpoint(&["--parent-path", "/tmp"]).refused(1, &["--parent-path", "not relative"]);
    bundle.checkpoint(&["--parent-path", "../nothing"]).refused(1, &["--parent-path", "no directory"]);
    bundle.assert_counts_on_from(bundle.count());
}

#[test]
fn a_tcp_connection_survives() {
    let mut bundle = criu_bundle!();
    let talk = "busybox nc -l -p 7000 -e /bin/sh -c 'cat > /tmp/heard' & sleep 1; \
                (i=0; while echo $((i=i+1)); do sleep 0.05; done) | busybox nc 127.0.0.1 7000";
    bundle.working(talk);
    let heard = || fs::read_to_string(bundle.rootfs().join("tmp/heard")).unwrap_or_default().lines().count();
    eventually("they talk", || (heard() > 3).then_some(()));
    bundle.checkpoint(&[]).refused(1, &["dump.log"]);
    let count = heard();
    eventually("they go on talking", || (heard() > count + 1).then_some(()));

    dump_connected!(bundle, &["--tcp-established"]);
    let count = heard();
    bundle.restore(&["--tcp-established"]).ok();
    eventually("they talk again", || (heard() > count + 3).then_some(()));
    let lines: Vec<usize> = fs::read_to_string(bundle.rootfs().join("tmp/heard"))
        .unwrap()
        .lines()
        .map(|line| line.parse().unwrap())
        .collect();
    assert!(lines.iter().zip(1..).all(|(heard, said)| *heard == said), "nothing is lost: {lines:?}");
}

#[test]
fn a_program_on_a_terminal_finds_it_again() {
    let mut bundle = criu_bundle!();
    bundle.shell("stty -echo; echo hello; while read word; do echo \"said $word\"; done");
    let mut screen = created(&mut bundle);
    bundle.start().ok();
    screen.shows("hello");
    screen.types("before\n");
    screen.shows("said before");
    bundle.dump(&[]);
    drop(screen);

    let path = bundle.scratch().join("second.sock");
    let listener = UnixListener::bind(&path).expect("listen");
    bundle.restoring(&["--detach", "--console-socket", path.to_str().unwrap()]).output().ok();
    let (master, payload) = receive_file(&listener);
    assert!((1..4096).contains(&payload.len()), "{payload:?}");
    let mut screen = Screen::new(master);
    screen.types("after\n");
    screen.shows("said after");
}

#[test]
fn a_restore_in_the_foreground_stays_and_ends_as_the_container_ends() {
    let mut bundle = criu_bundle!();
    bundle.working("touch /tmp/ready; until test -e /tmp/go; do sleep 0.01; done; exit 7");
    eventually("it is ready", || bundle.rootfs().join("tmp/ready").exists().then_some(()));
    bundle.dump(&[]);
    let running = bundle.restoring(&[]).spawn();
    eventually("it is restored", || {
        let state = bundle.verb("state", &[]);
        (state.code() == 0 && state.json()["status"] == "running").then_some(())
    });
    fs::write(bundle.rootfs().join("tmp/go"), "").unwrap();
    assert_eq!(running.wait().code(), 7);
    bundle.assert_nothing_left("restore");
}

#[test]
fn a_pipe_leads_to_whoever_restores() {
    let mut bundle = criu_bundle!();
    bundle.shell("while echo tick; do sleep 0.01; done");
    let (mut reader, writer) = std::io::pipe().unwrap();
    let mut create = bundle.birth("create", &[]);
    create.command.stdout(writer);
    create.output().ok();
    bundle.start().ok();
    let mut tick = [0; 5];
    reader.read_exact(&mut tick).unwrap();
    bundle.dump(&[]);
    let (mut second, writer) = std::io::pipe().unwrap();
    let mut restore = bundle.restoring(&["--detach"]);
    restore.command.stdout(writer);
    restore.output().ok();
    second.read_exact(&mut tick).unwrap();
    assert_eq!(&tick, b"tick\n");
}

#[test]
fn a_log_file_of_the_hosts_is_written_on() {
    let mut bundle = criu_bundle!();
    bundle.shell("while echo tick; do sleep 0.01; done");
    let path = bundle.scratch().join("log");
    let open = || fs::OpenOptions::new().append(true).create(true).open(&path).unwrap();
    let length = || fs::metadata(&path).unwrap().len();
    let mut create = bundle.birth("create", &[]);
    create.command.stdout(open());
    create.output().ok();
    bundle.start().ok();
    eventually("it writes", || (length() > 0).then_some(()));
    bundle.dump(&[]);
    let before = length();
    let mut restore = bundle.restoring(&["--detach"]);
    restore.command.stdout(open());
    restore.output().ok();
    eventually("it writes on", || (length() > before).then_some(()));
    assert!(fs::read_to_string(&path).unwrap().lines().all(|line| line == "tick"));
}

#[test]
fn bind_mounts_come_from_the_configuration_and_stay_read_only() {
    let mut bundle = criu_bundle!();
    let count = bundle.config["mounts"].as_array().unwrap().len();
    let mount_from = |bundle: &mut Bundle, name: &str| {
        let source = bundle.scratch().join(name);
        fs::create_dir(&source).unwrap();
        fs::write(source.join("word"), name).unwrap();
        let word = source.join("word");
        let data =
            json!({"destination": "/data", "type": "bind", "source": source, "options": ["rbind", "ro"]});
        let word = json!({"destination": "/run/word", "type": "bind", "source": word, "options": ["bind"]});
        bundle.set(&format!("/mounts/{count}"), data).set(&format!("/mounts/{}", count + 1), word);
    };
    mount_from(&mut bundle, "old");
    bundle.counted();
    mount_from(&mut bundle, "new");
    bundle.write_config();
    bundle.restore(&[]).ok();
    assert_eq!(bundle.exec(&["/bin/cat", "/data/word"]).ok().stdout(), "new");
    assert_eq!(bundle.exec(&["/bin/cat", "/run/word"]).ok().stdout(), "new");
    assert_eq!(bundle.exec(&["/witness", "write", "/data/word", "x"]).ok().stdout(), "EROFS\n");
    assert_eq!(bundle.exec(&["/witness", "create", "/data/x"]).ok().stdout(), "EROFS\n");
}

#[test]
fn mount_points_are_made_in_a_new_root_filesystem() {
    let mut bundle = criu_bundle!();
    let source = bundle.scratch().join("source");
    fs::create_dir(&source).unwrap();
    bundle.mount(json!({"destination": "/a/b/c", "type": "bind", "source": source, "options": ["bind"]}));
    let count = bundle.counted();
    fs::remove_dir_all(bundle.rootfs().join("a")).unwrap();
    bundle.restore(&[]).ok();
    bundle.assert_counts_on_from(count);
}

#[test]
fn a_joined_network_namespace_is_joined_again() {
    let mut bundle = criu_bundle!();
    let holder = Command::new("unshare").args(["--net", "sleep", "60"]).spawn().expect("unshare");
    let path = format!("/proc/{}/ns/net", holder.id());
    let own = fs::read_link("/proc/self/ns/net").unwrap();
    let joined = eventually("it has its own", || fs::read_link(&path).ok().filter(|joined| *joined != own));
    bundle.add_namespace(json!({"type": "network", "path": path}));
    let count = bundle.counted();
    bundle.restore(&[]).ok();
    bundle.assert_counts_on_from(count);
    assert_eq!(fs::read_link(format!("/proc/{}/ns/net", bundle.pid())).unwrap(), joined);
    bundle.verb("delete", &["--force"]).ok();
    let mut holder = holder;
    holder.kill().unwrap();
    holder.wait().unwrap();
}

#[test]
fn hooks_run_again_for_a_restored_container() {
    let mut bundle = criu_bundle!();
    let log = bundle.scratch().join("hooks");
    for point in ["prestart", "createRuntime", "poststart", "poststop"] {
        let script = format!(
            "printf '{point} ' >> {log}; sed 's/.*\"status\":\"\\([a-z]*\\)\".*/\\1/' >> {log}; echo >> {log}",
            log = log.display()
        );
        bundle.set(&format!("/hooks/{point}"), json!([{"path": "/bin/sh", "args": ["sh", "-c", script]}]));
    }
    bundle.counted();
    fs::remove_file(&log).unwrap();
    bundle.restore(&[]).ok();
    let said = fs::read_to_string(&log).unwrap();
    let points: Vec<&str> = said.split_whitespace().step_by(2).collect();
    assert_eq!(points, ["prestart", "createRuntime", "poststart"], "{said}");
}

#[test]
fn a_hook_that_fails_is_the_end_of_a_restore() {
    let mut bundle = criu_bundle!();
    bundle.counted();
    bundle.set("/hooks/createRuntime", json!([{"path": "/bin/false"}]));
    bundle.write_config();
    bundle.restore(&[]).refused(1, &["createRuntime hook 0", "status 1"]);
    bundle.assert_nothing_left("a failed restore");
}

#[test]
fn a_second_restore_of_what_still_runs_is_refused() {
    let mut bundle = criu_bundle!();
    bundle.counted();
    bundle.restore(&[]).ok();
    bundle.restore(&[]).refused(1, &["already exists"]);
    let other = format!("{}-other", bundle.id);
    bundle.restoring_as(&other, &["--detach"]).output().refused(1, &[&bundle.id]);
    assert!(!bundle.state_root().join(&other).exists());
    bundle.assert_counts_on_from(bundle.count());
}

#[test]
fn one_image_makes_two_containers_in_groups_of_their_own() {
    let mut bundle = criu_bundle!();
    bundle.working("while sleep 0.1; do :; done");
    bundle.dump(&[]);
    bundle.restore(&[]).ok();
    let other = bundle.renamed();
    bundle.restoring_as(&other, &["--detach"]).spawn().wait_within(PATIENCE).ok();
    bundle.assert_status("running");
    bundle.call(["state", &other]).output().ok();
    bundle.call(["delete", "--force", &other]).output().ok();
    bundle.assert_status("running");
}

#[test]
fn only_what_runs_can_be_checkpointed() {
    let mut bundle = bundle!();
    bundle.checkpoint(&[]).refused(1, &["does not exist"]);
    bundle.args(&["/bin/true"]);
    bundle.create().ok();
    bundle.checkpoint(&[]).refused(1, &["cannot checkpoint a container that is created"]);
    bundle.start().ok();
    bundle.wait();
    bundle.checkpoint(&[]).refused(1, &["container not running"]);
}

#[test]
fn without_criu_nothing_happens_and_one_sentence_says_so() {
    let mut bundle = bundle!();
    bundle.running();
    let call = bundle.call(["checkpoint", "--image-path"]).arg(bundle.images()).arg(&bundle.id);
    call.env("PATH", "/nonexistent").output().refused(1, &["\"criu\": executable file not found in $PATH"]);
    bundle.assert_status("running");
    bundle.verb("delete", &["--force"]).ok();
    bundle.wait();
    let restore = bundle.restoring(&["--detach"]).env("PATH", "/nonexistent");
    restore.output().refused(1, &["\"criu\": executable file not found"]);
    bundle.assert_nothing_left("a failed restore");
}

#[test]
fn what_is_no_checkpoint_is_refused_before_anything_is_made() {
    let mut bundle = bundle!();
    bundle.args(&["/bin/true"]).write_config();
    bundle.restore(&[]).refused(1, &["descriptors.json", "is it a checkpoint?"]);
    fs::create_dir(bundle.images()).unwrap();
    fs::write(bundle.images().join("descriptors.json"), "{").unwrap();
    bundle.restore(&[]).refused(1, &["descriptors.json"]);
    bundle.assert_nothing_left("a failed restore");
}

#[test]
fn a_dump_that_fails_leaves_the_container_as_it_was() {
    let mut bundle = criu_bundle!();
    // A file of the host's that no mount of the container leads to.
    let file = fs::File::create(bundle.scratch().join("outside")).unwrap();
    let line = "exec 3<&0 0</dev/null; i=0; while echo $((i=i+1)) > /tmp/count; do sleep 0.01; done";
    bundle.set("/root/readonly", json!(false)).shell(line);
    bundle.birth("create", &[]).stdin(file).output().ok();
    bundle.start().ok();
    eventually("it counts", || (bundle.count() > 3).then_some(()));
    bundle.checkpoint(&[]).refused(1, &["criu gave up", "dump.log"]);
    bundle.assert_counts_on_from(bundle.count());
}

#[test]
fn a_restore_that_fails_leaves_nothing_but_the_log() {
    let mut bundle = criu_bundle!();
    bundle.counted();
    let broken = bundle.images().join("core-1.img");
    fs::write(&broken, b"broken").unwrap();
    let work = bundle.scratch().join("work");
    let work = ["--detach", "--work-path", work.to_str().unwrap()];
    bundle.restoring(&work).output().refused(1, &["criu gave up", "work/restore.log"]);
    assert!(!bundle.pid_file().exists() || !Path::new(&format!("/proc/{}", bundle.pid())).exists());
    bundle.assert_nothing_left("a failed restore");
}

#[test]
fn whatever_a_killed_runtime_leaves_of_a_restore_is_deleted() {
    let mut bundle = criu_bundle!();
    bundle.counted();
    for delay in [0, 10, 30, 60, 100, 150] {
        let mut running = bundle.restoring(&["--detach"]).spawn();
        std::thread::sleep(Duration::from_millis(delay));
        running.child.kill().unwrap();
        running.wait();
        bundle.verb("delete", &["--force"]).ok();
        bundle.assert_nothing_left("delete --force");
        // A runtime that was killed early has not written it.
        let _ = fs::remove_file(bundle.pid_file());
    }
}

#[test]
fn a_mount_of_the_image_that_the_configuration_does_not_have_is_refused() {
    let mut bundle = criu_bundle!();
    let source = bundle.scratch().join("source");
    fs::create_dir(&source).unwrap();
    bundle.mount(json!({"destination": "/data", "type": "bind", "source": source, "options": ["bind"]}));
    bundle.counted();
    bundle.config["mounts"].as_array_mut().unwrap().pop();
    bundle.write_config();
    bundle.restore(&[]).refused(1, &["restore.log"]);
    bundle.assert_nothing_left("a failed restore");
}

#[test]
fn a_mount_of_the_configuration_that_the_image_does_not_have_is_refused() {
    let mut bundle = criu_bundle!();
    bundle.counted();
    let source = bundle.scratch().join("source");
    fs::create_dir(&source).unwrap();
    bundle.mount(json!({"destination": "/data", "type": "bind", "source": source, "options": ["bind"]}));
    bundle.write_config();
    bundle.restore(&[]).refused(1, &["\"/data\""]);
    bundle.assert_nothing_left("a failed restore");
}

#[test]
fn what_the_configuration_hides_and_the_image_does_not_ends_a_restore() {
    let mut bundle = criu_bundle!();
    let none = |bundle: &mut Bundle| {
        bundle.set("/linux/maskedPaths", json!([])).set("/linux/readonlyPaths", json!([]));
    };
    none(&mut bundle);
    bundle.working("while sleep 0.1; do :; done");
    bundle.dump(&[]);
    for (member, path, reason) in [
        ("maskedPaths", "/proc/timer_list", "does not hide"),
        ("maskedPaths", "/etc", "does not hide"),
        // It is read-only, as all of sysfs.
        ("maskedPaths", "/sys/firmware", "does not hide"),
        ("readonlyPaths", "/proc/sys", "writable"),
    ] {
        none(&mut bundle);
        bundle.set(&format!("/linux/{member}"), json!([path])).write_config();
        bundle.restore(&[]).refused(1, &[path, reason]);
        bundle.assert_nothing_left("a failed restore");
    }
    none(&mut bundle);
    // How the root is mounted is in no image.
    bundle.set("/root/readonly", json!(true)).write_config();
    bundle.restore(&[]).ok();
    assert_eq!(bundle.exec(&["/witness", "create", "/new"]).ok().stdout(), "EROFS\n");
}

#[test]
fn what_binds_the_configured_process_and_not_the_one_of_the_image_ends_a_restore() {
    let mut bundle = criu_bundle!();
    bundle.set("/process/noNewPrivileges", json!(false));
    bundle.working("while sleep 0.1; do :; done");
    bundle.dump(&[]);
    let filter = json!({"defaultAction": "SCMP_ACT_ALLOW",
        "syscalls": [{"names": ["sync"], "action": "SCMP_ACT_ERRNO"}]});
    bundle.set("/linux/seccomp", filter).write_config();
    bundle.restore(&[]).refused(1, &["linux.seccomp", "without it"]);
    bundle.assert_nothing_left("a failed restore");
    bundle.unset("/linux", "seccomp").set("/process/noNewPrivileges", json!(true)).write_config();
    let reason = if keeps_no_new_privileges() { "without it" } else { "3.18 or newer is needed" };
    bundle.restore(&[]).refused(1, &["process.noNewPrivileges", reason]);
    bundle.assert_nothing_left("a failed restore");
    // What would be lost is not dumped.
    if !keeps_no_new_privileges() {
        bundle.working("while sleep 0.1; do :; done");
        bundle.checkpoint(&[]).refused(1, &["process.noNewPrivileges", "3.18 or newer is needed"]);
        bundle.assert_status("running");
    }
}

#[test]
fn cve_2026_119101_a_link_in_the_root_filesystem_leads_no_mount_to_the_host() {
    let mut bundle = criu_bundle!();
    let source = bundle.scratch().join("source");
    let canary = bundle.scratch().join("canary");
    fs::create_dir(&source).unwrap();
    fs::create_dir(&canary).unwrap();
    bundle.mount(json!({"destination": "/data/deep", "type": "bind", "source": source, "options": ["bind"]}));
    bundle.counted();
    for link in ["data", "data/deep"] {
        fs::remove_dir_all(bundle.rootfs().join("data"))
            .unwrap_or_else(|_| fs::remove_file(bundle.rootfs().join("data")).unwrap());
        if link != "data" {
            fs::create_dir(bundle.rootfs().join("data")).unwrap();
        }
        symlink(&canary, bundle.rootfs().join(link)).unwrap();
        let restored = bundle.restore(&[]);
        assert_eq!(fs::read_dir(&canary).unwrap().count(), 0, "{link}: something was made on the host");
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        assert!(!mounts.contains(canary.to_str().unwrap()), "{link}: something is mounted on the host");
        restored.refused(1, &[]);
        bundle.assert_nothing_left("a failed restore");
    }
}

#[test]
fn cve_2026_115520_a_destination_cannot_be_taken_for_one_of_crius_options() {
    let mut bundle = bundle!();
    let source = bundle.scratch().join("source");
    fs::create_dir(&source).unwrap();
    bundle.mount(json!({"destination": "/a]:b", "type": "bind", "source": source, "options": ["bind"]}));
    bundle.running();
    bundle.checkpoint(&[]).refused(1, &["\"/a]:b\""]);
    bundle.assert_status("running");
}

#[test]
fn podman_asks_whether_there_is_checkpointing_and_which_options() {
    let bundle = Bundle::new();
    bundle.call(["checkpoint", "--help"]).output().ok();
    bundle.call(["restore", "--lsm-mount-context"]).output().refused(1, &["requires an argument"]);
}

/// A Podman with a storage of its own and this runtime. Without its containers nothing of it stays.
struct Podman<'a>(&'a Bundle);

impl Podman<'_> {
    fn command(&self, words: &[&str]) -> Command {
        let scratch = self.0.scratch();
        let mut command = Command::new("podman");
        command
            .args(["--cgroup-manager", "cgroupfs", "--log-level", "error", "--runtime"])
            .arg(&self.0.runtime);
        command
            .arg("--root")
            .arg(scratch.join("storage"))
            .arg("--runroot")
            .arg(scratch.join("run"))
            .args(words);
        command
    }

    #[track_caller]
    fn call(&self, words: &[&str]) -> String {
        let output = self.command(words).output().expect("run podman");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        assert!(output.status.success(), "{words:?}: {}{}", text(&output.stdout), text(&output.stderr));
        text(&output.stdout)
    }

    /// What the container counted last.
    fn count(&self, name: &str) -> u64 {
        self.call(&["logs", "--tail", "1", name]).trim().parse().unwrap_or(0)
    }
}

impl Drop for Podman<'_> {
    fn drop(&mut self) {
        // After a failure there is more than there should be, and its reason has been said.
        let _ = self.command(&["rm", "--all", "--force", "--time", "0"]).output();
        let _ = Command::new("umount").arg(self.0.scratch().join("storage/overlay")).output();
    }
}

/// As one moves a container to another machine.
#[test]
fn podman_moves_a_container_by_export_and_import() {
    if Command::new("podman").arg("--version").output().is_err() {
        skip!("podman is not installed");
    }
    let bundle = criu_bundle!();
    let podman = Podman(&bundle);
    let (image, export) = (bundle.scratch().join("image.tar"), bundle.scratch().join("export.tar"));
    let status = Command::new("tar").arg("-C").arg(bundle.rootfs()).arg("-cf").arg(&image).arg(".").status();
    // Programs are hard links: who makes another one meanwhile has tar say, with 1, that the file has changed.
    assert!(status.is_ok_and(|status| matches!(status.code(), Some(0 | 1))));
    podman.call(&["import", "-q", image.to_str().unwrap(), "counter"]);

    let name = bundle.id.as_str();
    // Its own limits may be higher than this machine allows.
    let options = "run -d --ulimit nofile=1024:1024 --ulimit nproc=1024:1024 --network none \
                   --log-driver k8s-file --name";
    let options: Vec<&str> = options.split_whitespace().collect();
    let program = [name, "counter", "/bin/sh", "-c", "i=0; while echo $((i=i+1)); do sleep 0.1; done"];
    podman.call(&[&options[..], &program].concat());
    eventually("it counts", || (podman.count(name) > 3).then_some(()));
    podman.call(&["container", "checkpoint", "--export", export.to_str().unwrap(), name]);
    let before = podman.count(name);
    podman.call(&["rm", name]);

    podman.call(&["container", "restore", "--import", export.to_str().unwrap()]);
    eventually("it counts on", || (podman.count(name) > before).then_some(()));
    // Podman takes the log along.
    let counted = podman.call(&["logs", name]);
    let counted: Vec<u64> = counted.lines().map(|line| line.parse().unwrap()).collect();
    assert!(counted.windows(2).all(|pair| pair[1] == pair[0] + 1), "it began anew: {counted:?}");
    podman.call(&["exec", name, "/bin/true"]);
    podman.call(&["rm", "--force", "--time", "0", name]);
}
