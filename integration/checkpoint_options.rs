//! Checkpoint and restore as their options want them: what is taken along, what is left out, and how groups are restored.

use std::fs;

use serde_json::json;

use crate::bundle::{Bundle, bundle, skip};
use crate::call::eventually;
use crate::cgroups::hierarchy;
use crate::checkpoint::{PATIENCE, criu_bundle, criu_version};

impl Bundle {
    /// To disk and back, with the same options.
    fn moves_with(&self, options: &[&str]) {
        self.checkpoint(options).ok();
        self.wait();
        self.restoring(&[&["--detach"], options].concat()).spawn().wait_within(PATIENCE).ok();
    }

    /// The counter with a line of shell before it begins.
    fn counting_after(&mut self, line: &str) {
        let count = "i=0; while echo $((i=i+1)) > /tmp/count; do sleep 0.01; done";
        self.set("/root/readonly", json!(false)).shell(&format!("exec >/dev/null 2>&1; {line} {count}"));
        self.create().ok();
        self.start().ok();
        eventually("it counts", || (self.count() > 3).then_some(()));
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
    bundle.counting_after("exec 5>/tmp/first; ln /tmp/first /tmp/second; rm /tmp/first; (while echo tick >&5; do sleep 0.01; done) &");
    bundle.checkpoint(&[]).refused(1, &["dump.log"]);
    bundle.checkpoint(&["--link-remap"]).ok();
    bundle.wait();
    let second = bundle.rootfs().join("tmp/second");
    let length = || fs::metadata(&second).unwrap().len();
    let before = length();
    bundle.restore().ok();
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
    bundle.checkpoint(&[]).ok();
    bundle.wait();
    let strict =
        bundle.restoring(&["--detach", "--manage-cgroups-mode", "strict"]).spawn().wait_within(PATIENCE);
    strict.refused(1, &["existing cgroups"]);
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
    bundle.counting();
    bundle.checkpoint(&[]).ok();
    bundle.wait();
    assert!(bundle.images().join("another.log").exists());
    assert!(!bundle.images().join("dump.log").exists());
    let count = bundle.count();
    bundle.restore().ok();
    bundle.assert_counts_on_from(count);
}

#[test]
fn switches_reach_criu() {
    let mut bundle = criu_bundle!();
    bundle.counting();
    let log = bundle.scratch().join("log");
    let said = |verb: &str, words: &[&str]| {
        fs::write(&log, "").unwrap();
        let call = bundle.call(["--debug", "--log"]).arg(&log).arg(verb).args(words);
        let call = call.arg("--image-path").arg(bundle.images());
        let call = if verb == "restore" {
            call.arg("--detach").arg("--bundle").arg(bundle.path()).arg("--pid-file").arg(bundle.pid_file())
        } else {
            call
        };
        call.arg(&bundle.id).spawn().wait_within(PATIENCE).ok();
        fs::read_to_string(&log).unwrap()
    };
    // Older ones have to lock a network, and lock it where there is nobody to be kept out.
    let (lock, network_lock) = match criu_version() >= (3, 19) {
        true => ("skip", "network_lock 3"),
        false => ("nftables", "network_lock 2"),
    };
    let both = ["--ext-unix-sk", "--shell-job", "--auto-dedup", "--network-lock", lock];
    let dump = said("checkpoint", &[&both[..], &["--tcp-skip-in-flight"]].concat());
    bundle.wait();
    for option in ["ext_unix_sk 1", "shell_job 1", "auto_dedup 1", network_lock, "tcp_skip_in_flight 1"] {
        assert!(dump.contains(option), "{option}: {dump}");
    }
    let count = bundle.count();
    let restore = said("restore", &[&both[..], &["--tcp-close"]].concat());
    for option in ["ext_unix_sk 1", "shell_job 1", "auto_dedup 1", network_lock, "tcp_close 1"] {
        assert!(restore.contains(option), "{option}: {restore}");
    }
    bundle.assert_counts_on_from(count);
}
