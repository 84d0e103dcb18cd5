//! Checkpoint and restore as their options want them: what is taken along, what is left out, and how groups are restored.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::{UnixDatagram, UnixListener};
use std::path::Path;
use std::process::Command;

use nix::libc::EAGAIN;
use serde_json::json;

use crate::bundle::{Bundle, skip, wait_for};
use crate::call::eventually;
use crate::cgroups::hierarchy;
use crate::criu::{PATIENCE, criu_bundle, criu_version, dump_connected, has};
use crate::terminal::receive_file;

/// Leaves a test where criu runs no scripts for us.
macro_rules! scripted_bundle {
    () => {{
        let bundle = criu_bundle!();
        if criu_version() <= (3, 17) {
            skip!("criu 3.17 dies of scripts beside notifications (BUG at criu/action-scripts.c:172)");
        }
        bundle
    }};
}

impl Bundle {
    /// Has criu run a line of shell at each point where it runs scripts.
    fn with_script(&mut self, line: &str) {
        let (script, file) = (self.scratch().join("script"), self.scratch().join("criu.conf"));
        self.program("script", format!("#!/bin/sh\n{line}\n"));
        fs::rename(self.rootfs().join("script"), &script).unwrap();
        fs::write(&file, format!("action-script {}\n", script.display())).unwrap();
        self.set("/annotations", json!({"org.criu.config": file}));
    }

    /// To disk and back, with the same options.
    fn moves_with(&self, options: &[&str]) {
        self.dump(options);
        self.restore(options).ok();
    }
}

#[test]
fn a_lock_on_a_file_is_taken_along_if_asked_for() {
    let mut bundle = criu_bundle!();
    bundle.counting_after("/witness hold-lock /tmp/lock &");
    let is_locked = || bundle.exec(&["/witness", "lock", "/tmp/lock"]).ok().stdout() == "EAGAIN\n";
    eventually("it has the lock", || is_locked().then_some(()));
    bundle.checkpoint(&[]).refused(1, &["locks", "dump.log"]);
    bundle.assert_counts_on_from(bundle.count());
    bundle.moves_with(&["--file-locks"]);
    bundle.assert_counts_on_from(bundle.count());
    assert!(is_locked(), "the lock is lost");
}

#[test]
fn an_open_file_that_has_lost_its_name_is_found_again_if_asked_for() {
    let mut bundle = criu_bundle!();
    bundle.counting_after(
        "exec 5>/tmp/first; ln /tmp/first /tmp/second; rm /tmp/first; (while echo tick >&5; do sleep 0.01; done) &",
    );
    bundle.checkpoint(&[]).refused(1, &["dump.log"]);
    bundle.dump(&["--link-remap"]);
    let second = bundle.rootfs().join("tmp/second");
    let length = || fs::metadata(&second).unwrap().len();
    let before = length();
    bundle.restore(&[]).ok();
    eventually("it writes on", || (length() > before).then_some(()));
}

#[test]
fn groups_are_restored_in_the_mode_that_is_asked_for() {
    let mut bundle = criu_bundle!();
    bundle.set("/linux/resources/pids", json!({"limit": 7}));
    bundle.counting();
    for mode in ["ignore", "full"] {
        let count = bundle.count();
        bundle.moves_with(&["--manage-cgroups-mode", mode]);
        bundle.assert_counts_on_from(count);
        let groups = fs::read_to_string(format!("/proc/{}/cgroup", bundle.pid())).unwrap();
        assert!(groups.contains(&bundle.id), "{mode}: {groups}");
        // The limit is the configuration's, whoever restores groups.
        let limit =
            hierarchy("pids").map(|pids| fs::read_to_string(pids.join(&bundle.id).join("pids.max")).unwrap());
        assert_eq!(limit.as_deref().unwrap_or("7\n"), "7\n", "{mode}");
        bundle.clear_images();
    }
    // It wants to make them itself, and here they are made before, with the limits of devices in them.
    bundle.dump(&[]);
    bundle.restore(&["--manage-cgroups-mode", "strict"]).refused(1, &["existing cgroups"]);
    bundle.assert_nothing_left("a failed restore");
}

#[test]
fn a_network_namespace_is_restored_empty_if_asked_for() {
    let mut bundle = criu_bundle!();
    bundle.counting();
    let has_devices = |bundle: &Bundle| {
        let names = fs::read_dir(bundle.images()).unwrap().map(|entry| entry.unwrap().file_name());
        names.into_iter().any(|name| name.to_string_lossy().starts_with("netdev-"))
    };
    bundle.moves_with(&[]);
    assert!(has_devices(&bundle));
    bundle.clear_images();
    let count = bundle.count();
    bundle.moves_with(&["--empty-ns", "network"]);
    assert!(!has_devices(&bundle));
    bundle.assert_counts_on_from(count);
}

#[test]
fn options_of_crius_own_come_from_the_file_that_an_annotation_names() {
    let mut bundle = criu_bundle!();
    let file = bundle.scratch().join("criu.conf");
    fs::write(&file, "log-file another.log\n").unwrap();
    bundle.set("/annotations", json!({"org.criu.config": file}));
    bundle.counted();
    assert!(bundle.images().join("another.log").exists());
    assert!(!bundle.images().join("dump.log").exists());
    let count = bundle.count();
    bundle.restore(&[]).ok();
    bundle.assert_counts_on_from(count);
}

#[test]
fn a_socket_that_is_connected_to_the_hosts_is_connected_again_if_asked_for() {
    let mut bundle = criu_bundle!();
    // CRIU knows the sockets of the network namespace that the container has.
    bundle.drop_namespace("network");
    let place = bundle.scratch().join("place");
    fs::create_dir(&place).unwrap();
    let socket = UnixDatagram::bind(place.join("log")).unwrap();
    socket.set_nonblocking(true).unwrap();
    bundle.mount(json!({"destination": place, "type": "bind", "source": place, "options": ["bind"]}));
    bundle.counting_after(&format!("/witness tell {}/log &", place.display()));
    let hears = |what: &str| {
        let hear = || socket.recv(&mut [0; 8]).ok();
        while hear().is_some() {}
        eventually(what, hear);
    };
    hears("it is told something");
    bundle.checkpoint(&[]).refused(1, &["External socket", "dump.log"]);
    bundle.assert_counts_on_from(bundle.count());
    bundle.moves_with(&["--ext-unix-sk"]);
    bundle.assert_counts_on_from(bundle.count());
    hears("it is told something again");
}

#[test]
fn a_tcp_connection_is_restored_closed_if_asked_for() {
    let mut bundle = criu_bundle!();
    bundle.counting_after(
        "busybox nc -l -p 7000 -e /bin/sh -c 'cat > /tmp/heard; touch /tmp/over' & sleep 1; \
         (while echo tick; do sleep 0.05; done) | busybox nc 127.0.0.1 7000 &",
    );
    let file = |name: &str| fs::read_to_string(bundle.rootfs().join("tmp").join(name)).ok();
    eventually("they talk", || file("heard").filter(|heard| heard.len() > 20));
    dump_connected!(bundle, &["--tcp-established"]);
    assert_eq!(file("over"), None);
    let count = bundle.count();
    bundle.restore(&["--tcp-close"]).ok();
    eventually("the connection is closed", || file("over"));
    bundle.assert_counts_on_from(count);
}

#[test]
fn a_connection_that_nobody_has_accepted_is_left_out_if_asked_for() {
    let mut bundle = criu_bundle!();
    bundle.counting_after("/witness queue 7000 &");
    let file = |name: &str| bundle.rootfs().join("tmp").join(name);
    eventually("it is connected", || file("queued").exists().then_some(()));
    bundle.checkpoint(&["--tcp-established"]).refused(1, &["n-flight connection", "dump.log"]);
    bundle.assert_counts_on_from(bundle.count());
    dump_connected!(bundle, &["--tcp-established", "--tcp-skip-in-flight"]);
    let count = bundle.count();
    bundle.restore(&["--tcp-established"]).ok();
    bundle.assert_counts_on_from(count);
    fs::write(file("go"), "").unwrap();
    let accepted = eventually("it accepts", || fs::read_to_string(file("accepted")).ok());
    assert_eq!(accepted, format!("{:?}", Some(EAGAIN)));
}

/// A shell that came by exec has left a job to the container. Its session and terminal are the shell's, which stays.
#[test]
fn a_job_of_a_shell_that_is_not_the_containers_is_taken_along_if_asked_for() {
    let mut bundle = criu_bundle!();
    bundle.counting();
    let path = bundle.scratch().join("exec.sock");
    let listener = UnixListener::bind(&path).expect("listen");
    let line = "sh -c 'while sleep 0.1; do echo tick >> /tmp/job; done &'; read line";
    let options = ["--tty", "--console-socket", path.to_str().expect("a path")];
    let shell = bundle.exec_detached(&options, &["/bin/sh", "-c", line]);
    let (_master, _) = receive_file(&listener);
    eventually("it works", || bundle.rootfs().join("tmp/job").exists().then_some(()));
    bundle.checkpoint(&[]).refused(1, &["dangling tty", "dump.log"]);
    bundle.assert_counts_on_from(bundle.count());
    let dump = bundle
        .call(["checkpoint", "--shell-job", "--image-path"])
        .arg(bundle.images())
        .arg(&bundle.id)
        .spawn();
    // The pid namespace ends when its last process has been waited for.
    wait_for(shell);
    dump.wait_within(PATIENCE).ok();
    bundle.wait();
    bundle.verb("state", &[]).refused(1, &["does not exist"]);
}

/// What it restores inherits its groups.
#[test]
fn criu_works_in_the_groups_of_what_it_restores() {
    let mut bundle = scripted_bundle!();
    let groups = bundle.scratch().join("groups");
    bundle.with_script(&format!("cat /proc/$PPID/cgroup > {}", groups.display()));
    bundle.counted();
    assert!(!fs::read_to_string(&groups).unwrap().contains(&bundle.id));
    bundle.restore(&[]).ok();
    let of_criu = fs::read_to_string(&groups).unwrap();
    let of_init = fs::read_to_string(format!("/proc/{}/cgroup", bundle.pid())).unwrap();
    assert!(of_criu.contains(&bundle.id));
    assert_eq!(of_criu, of_init);
}

/// How much of the disk the memory in an image takes.
fn blocks_of_pages(images: &Path) -> u64 {
    let entries = fs::read_dir(images).unwrap().map(Result::unwrap);
    let pages = entries.filter(|entry| entry.file_name().to_string_lossy().starts_with("pages-"));
    pages.map(|entry| entry.metadata().unwrap().blocks()).sum()
}

#[test]
fn memory_leaves_the_image_when_it_is_restored_if_asked_for() {
    let mut bundle = criu_bundle!();
    bundle.counted();
    let blocks = || blocks_of_pages(&bundle.images());
    let all = blocks();
    bundle.restore(&[]).ok();
    assert_eq!(blocks(), all);
    bundle.verb("delete", &["--force"]).ok();
    bundle.wait();
    bundle.restore(&["--auto-dedup"]).ok();
    bundle.assert_counts_on_from(bundle.count());
    assert!(blocks() < all, "{} of {all} blocks are left", blocks());
}

#[test]
fn memory_that_has_changed_leaves_the_parent_if_asked_for() {
    let mut bundle = criu_bundle!();
    if !has("mem_dirty_track") {
        skip!("criu cannot follow changes of memory on this kernel");
    }
    bundle.counting();
    let parent = bundle.scratch().join("before");
    bundle.checkpoint_to(&parent, &["--pre-dump"]).ok();
    let all = blocks_of_pages(&parent);
    for (option, fewer) in [(&[][..], false), (&["--auto-dedup"], true)] {
        bundle.checkpoint(&[&["--leave-running", "--parent-path", "../before"], option].concat()).ok();
        assert_eq!(blocks_of_pages(&parent) < all, fewer, "{option:?}");
        bundle.assert_counts_on_from(bundle.count());
        bundle.clear_images();
    }
}

/// While criu dumps, its tables of packet filters are in the container's network namespace.
#[test]
fn the_network_is_held_back_by_the_method_that_is_asked_for() {
    let mut bundle = scripted_bundle!();
    let list = Command::new("unshare").args(["--net", "nft", "list", "ruleset"]).output();
    if !list.is_ok_and(|list| list.status.success()) {
        skip!("there is no nft, or it cannot list tables here");
    }
    let rules = bundle.scratch().join("rules");
    bundle.with_script(&format!(
        "[ \"$CRTOOLS_SCRIPT_ACTION\" != post-dump ] || \
         nsenter --net --target $CRTOOLS_INIT_PID sh -c 'nft list ruleset; iptables-legacy-save' > {}; true",
        rules.display()
    ));
    bundle.counting();
    for method in ["iptables", "nftables", "skip"] {
        if method == "skip" && criu_version() < (3, 19) {
            continue;
        }
        bundle.checkpoint(&["--leave-running", "--network-lock", method]).ok();
        let rules = fs::read_to_string(&rules).unwrap();
        // A table of its own, or a chain among the others.
        let found = match rules.contains("CRIU") {
            true if rules.contains("table inet CRIU") => "nftables",
            true => "iptables",
            false => "skip",
        };
        if (method, found) == ("iptables", "skip") {
            skip!("criu's rules are not among those that nft and iptables-legacy show here");
        }
        assert_eq!(found, method, "{rules}");
        bundle.assert_counts_on_from(bundle.count());
        bundle.clear_images();
    }
}

/// Where a session is missing criu 4.1 crashes, and Debian's can dump nothing under its SELinux policy: that criu is asked
/// is all that can be seen.
#[test]
fn a_restore_asks_for_shell_jobs_and_the_context_of_mounts_too() {
    let mut bundle = criu_bundle!();
    let count = bundle.counted();
    let log = bundle.scratch().join("log");
    let options = ["--shell-job", "--lsm-mount-context", "system_u:object_r:some_t:s0"];
    let call = bundle.call(["--debug", "--log"]).arg(&log).args(["restore", "--detach"]).args(options);
    let call = call.arg("--image-path").arg(bundle.images()).arg("--bundle").arg(bundle.path());
    call.arg("--pid-file").arg(bundle.pid_file()).arg(&bundle.id).spawn().wait_within(PATIENCE).ok();
    let said = fs::read_to_string(&log).unwrap();
    for asked in ["shell_job 1", "system_u:object_r:some_t:s0"] {
        assert!(said.contains(asked), "{asked}: {said}");
    }
    bundle.assert_counts_on_from(count);
}
