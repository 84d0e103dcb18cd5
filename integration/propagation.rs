//! Propagation: what the host mounts later and what the container mounts, seen or not seen on the other side.

use std::path::Path;
use std::process::Command;

use nix::mount::MsFlags;
use serde_json::json;

use crate::bundle::{Bundle, bundle, skip};
use crate::call::Call;
use crate::mounts::Mounted;

/// A directory that is a shared mount of its own.
pub fn shared(directory: &Path) -> Mounted {
    std::fs::create_dir_all(directory).expect("make a directory");
    for options in ["--bind", "--make-shared"] {
        let mut command = Command::new("mount");
        command.arg(options).arg(directory);
        if options == "--bind" {
            command.arg(directory);
        }
        assert!(command.status().expect("run mount").success(), "mount {options}");
    }
    Mounted::adopt(directory)
}

fn lines_inside(bundle: &Bundle, path: &str) -> usize {
    let output = bundle.exec(&["/bin/cat", "/proc/self/mountinfo"]).ok();
    output.stdout().lines().filter(|line| line.contains(&format!(" {path} "))).count()
}

#[test]
fn what_the_host_mounts_in_the_root_later_is_seen_by_a_slave_and_not_by_a_private_root() {
    for (propagation, seen) in [("rslave", 1), ("", 1), ("rprivate", 0)] {
        let mut bundle = bundle!();
        let root = shared(&bundle.rootfs());
        bundle.set("/linux/rootfsPropagation", json!(propagation));
        bundle.running();
        assert_eq!(bundle.traces().mounts.len(), 1, "{propagation}: the setup shows on the host");
        let mounted = Mounted::tmpfs(&bundle.rootfs().join("tmp"), MsFlags::empty());
        assert_eq!(lines_inside(&bundle, "/tmp"), seen, "{propagation:?}");
        drop(mounted);
        assert_eq!(lines_inside(&bundle, "/tmp"), 0, "{propagation:?}: unmounted on the host");
        bundle.verb("delete", &["--force"]).ok();
        drop(root);
    }
}

#[test]
fn what_the_container_mounts_in_a_shared_volume_shows_on_the_host() {
    let mut bundle = bundle!();
    let volume = bundle.scratch().join("volume");
    let shared = shared(&volume);
    bundle.privileged().set("/linux/rootfsPropagation", json!("rshared"));
    bundle.mount(json!({"destination": "/volume", "source": volume, "options": ["rbind", "rshared"]}));
    bundle.running();
    assert_eq!(bundle.traces().mounts.len(), 1, "the setup shows on the host");
    std::fs::create_dir(volume.join("below")).unwrap();
    bundle.exec(&["/bin/mount", "-t", "tmpfs", "tmpfs", "/volume/below"]).ok();
    let mounts = bundle.traces().mounts;
    assert!(mounts.iter().any(|line| line.contains("/volume/below")), "{mounts:?}");
    drop(Mounted::adopt(&volume.join("below")));
    bundle.verb("delete", &["--force"]).ok();
    drop(shared);
}

#[test]
fn a_root_that_is_moved_onto_a_shared_one_does_not_cover_the_hosts() {
    // In a mount namespace of the test's own, which would be lost if it went wrong.
    let mut bundle = bundle!();
    bundle.set("/linux/rootfsPropagation", json!("rshared")).args(&["/bin/echo", "ran"]);
    let run = bundle.birth("run", &["--no-pivot"]);
    let root = bundle.rootfs();
    let script = "mount --bind \"$0\" \"$0\" && mount --make-rshared / && before=$(cat /proc/self/mountinfo) && \"$@\" && \
                  test \"$before\" = \"$(cat /proc/self/mountinfo)\"";
    let mut call =
        Call::new("unshare", &bundle.scratch()).args(["--mount", "--propagation", "private", "sh", "-c"]);
    call = call.arg(script).arg(&root).arg(run.command.get_program());
    assert_eq!(call.args(run.command.get_args()).output().ok().stdout(), "ran\n");
}
