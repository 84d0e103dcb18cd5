//! The fixture of checkpoints: a criu that works, and bundles that go to disk and come back.
//! Runs in the tests, outside any container.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::Duration;

use serde_json::json;

use crate::bundle::Bundle;
use crate::call::{Call, Output, eventually};

/// What criu does by ptrace(2) and with tables of packet filters takes its time in an emulated machine.
pub const PATIENCE: Duration = Duration::from_secs(180);

/// Leaves a test where criu is missing or does not work on this kernel.
macro_rules! criu_bundle {
    () => {{
        if let Some(reason) = $crate::criu::criu_reason() {
            $crate::bundle::skip!("{reason}");
        }
        let mut bundle = $crate::bundle::bundle!();
        $crate::criu::suit(&mut bundle);
        bundle
    }};
}

/// To disk with TCP connections; leaves a test where the kernel does not tell all that CRIU must know of them.
macro_rules! dump_connected {
    ($bundle:expr, $options:expr) => {{
        let taken = $bundle.checkpoint($options);
        if taken.stderr.contains("Operation not supported") {
            $crate::bundle::skip!("this kernel cannot repair TCP connections: {}", taken.stderr.trim());
        }
        taken.ok();
        $bundle.wait();
    }};
}

pub(crate) use {criu_bundle, dump_connected};

pub fn criu_reason() -> Option<String> {
    static REASON: OnceLock<Option<String>> = OnceLock::new();
    REASON
        .get_or_init(|| match Command::new("criu").arg("check").output() {
            Err(error) => Some(format!("criu: {error}")),
            Ok(output) if output.status.success() => None,
            Ok(output) => {
                let words = String::from_utf8_lossy(&output.stderr).into_owned();
                Some(format!("criu check: {}", words.lines().next().unwrap_or("fails")))
            }
        })
        .clone()
}

/// `Version: 4.1`, and more of it.
pub fn criu_version() -> (u32, u32) {
    let output = Command::new("criu").arg("--version").output().expect("run criu");
    let text = String::from_utf8_lossy(&output.stdout);
    let mut numbers = text.trim_start_matches("Version: ").split(['.', '\n', ' ']).map(str::parse);
    let mut next = || numbers.next().and_then(Result::ok).unwrap_or_else(|| panic!("no version in {text:?}"));
    (next(), next())
}

/// Whether the criu of this machine can restore what has no_new_privileges.
pub fn keeps_no_new_privileges() -> bool {
    criu_version() >= (3, 18)
}

/// Asks for nothing that the criu of this machine cannot give.
pub fn suit(bundle: &mut Bundle) {
    bundle.set("/process/noNewPrivileges", json!(keeps_no_new_privileges()));
}

/// Whether this criu, on this kernel, has an ability.
pub fn has(feature: &str) -> bool {
    Command::new("criu")
        .args(["check", "--feature", feature])
        .output()
        .is_ok_and(|output| output.status.success())
}

impl Bundle {
    pub fn images(&self) -> PathBuf {
        self.scratch().join("images")
    }

    pub fn clear_images(&self) {
        fs::remove_dir_all(self.images()).unwrap();
    }

    pub fn checkpoint(&self, options: &[&str]) -> Output {
        self.checkpoint_to(&self.images(), options)
    }

    pub fn checkpoint_to(&self, images: &Path, options: &[&str]) -> Output {
        let call = self.call(["checkpoint", "--image-path"]).arg(images).args(options).arg(&self.id);
        call.spawn().wait_within(PATIENCE)
    }

    /// To disk; criu ends what it has dumped.
    #[track_caller]
    pub fn dump(&self, options: &[&str]) {
        self.checkpoint(options).ok();
        assert_eq!(self.wait(), 128 + 9);
    }

    /// As the same container.
    pub fn restoring(&self, options: &[&str]) -> Call {
        self.restoring_as(&self.id, options).arg("--pid-file").arg(self.pid_file())
    }

    pub fn restoring_as(&self, id: &str, options: &[&str]) -> Call {
        let call = self.call(["restore", "--image-path"]).arg(self.images());
        call.arg("--bundle").arg(self.path()).args(options).arg(id)
    }

    pub fn restore(&self, options: &[&str]) -> Output {
        self.restoring(options).arg("--detach").spawn().wait_within(PATIENCE)
    }

    /// The same bundle, as a second container would have it.
    pub fn renamed(&mut self) -> String {
        let other = format!("{}-other", self.id);
        self.set("/linux/cgroupsPath", json!(format!("/{other}"))).write_config();
        other
    }

    /// A container that runs a line of shell, and may write to its root.
    pub fn working(&mut self, line: &str) -> Output {
        self.set("/root/readonly", json!(false)).shell(line);
        let output = self.create().ok();
        self.start().ok();
        output
    }

    /// A container that counts in a file of its own.
    pub fn counting(&mut self) {
        self.counting_after("");
    }

    /// The counter with a line of shell before it begins.
    pub fn counting_after(&mut self, line: &str) {
        // A shell keeps its standard output on another descriptor while it redirects it, where no runtime looks for a
        // file of the host's.
        let count = "i=0; while echo $((i=i+1)) > /tmp/count; do sleep 0.01; done";
        self.working(&format!("exec >/dev/null 2>&1; {line} {count}"));
        eventually("it counts", || (self.count() > 3).then_some(()));
    }

    /// A container that has counted, and is on disk: how far it came.
    pub fn counted(&mut self) -> u64 {
        self.counting();
        self.dump(&[]);
        self.count()
    }

    pub fn count(&self) -> u64 {
        let text = fs::read_to_string(self.rootfs().join("tmp/count")).unwrap_or_default();
        text.trim().parse().unwrap_or(0)
    }

    /// It has not begun anew.
    #[track_caller]
    pub fn assert_counts_on_from(&self, before: u64) {
        eventually("it counts on", || (self.count() > before + 3).then_some(()));
        self.assert_status("running");
    }
}
