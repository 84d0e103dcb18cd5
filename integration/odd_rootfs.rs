//! The root filesystem as an enemy: whatever an image has in the place of a directory or a file that the runtime
//! works on, the container is made inside it or refused in one line, nobody waits, and the host is as before.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{OpenOptionsExt, symlink};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::sys::stat::{Mode, SFlag, makedev, mknod};
use nix::unistd::mkfifo;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use serde_json::{Value, json};

use crate::bundle::{Bundle, bundle, skip};
use crate::call::affordable;
use crate::mounts::Mounted;
use crate::security::Canary;

const DIRECTORIES: &[&str] = &["dev", "dev/mqueue", "dev/pts", "dev/shm", "proc", "run", "sys", "tmp"];
const FILES: &[&str] = &["dev/console", "dev/null", "dev/ptmx", "dev/zero", "dev/fd", "etc/passwd"];

/// How many pairs of a place and what stands in it a test tries where everything takes long.
const MOST: usize = 16;

/// What stands in a place, made at a path; `canary` is what a link leads to.
type Oddity = (&'static str, fn(&Path, canary: &Path));

const ODDITIES: &[Oddity] = &[
    ("a link to the host", |path, canary| symlink(canary, path).unwrap()),
    ("a relative link to the host", |path, canary| {
        let up = PathBuf::from("../".repeat(path.components().count() + 2));
        symlink(up.join(canary.strip_prefix("/").unwrap()), path).unwrap();
    }),
    ("a link to a new place on the host", |path, canary| {
        let place = if canary.is_dir() { canary } else { canary.parent().unwrap() };
        symlink(place.join("new"), path).unwrap();
    }),
    ("a link to itself", |path, _| symlink(path.file_name().unwrap(), path).unwrap()),
    ("a link to a process", |path, _| symlink("/proc/self", path).unwrap()),
    ("a fifo", |path, _| mkfifo(path, Mode::S_IRWXU).unwrap()),
    ("a device", |path, _| mknod(path, SFlag::S_IFCHR, Mode::S_IRWXU, makedev(1, 7)).unwrap()),
    ("a socket", |path, _| {
        // A path of any length: a socket's address has room for 108 bytes.
        let near = tempfile::tempdir().unwrap();
        drop(UnixListener::bind(near.path().join("s")).unwrap());
        let moved = Command::new("mv").arg(near.path().join("s")).arg(path).status().unwrap();
        assert!(moved.success());
    }),
    ("a file", |path, _| fs::write(path, "a file").unwrap()),
    ("a directory", |path, _| fs::create_dir(path).unwrap()),
];

/// Puts an oddity into a fresh image and runs it: `change` may change the configuration before.
fn run_with(
    name: &str,
    (oddity, make): Oddity,
    change: fn(&mut Bundle),
    lay: fn(&Bundle) -> Option<Mounted>,
) {
    let mut bundle = Bundle::new();
    bundle.args(&["/bin/echo", "ran"]);
    change(&mut bundle);
    let canary = Canary::new(&bundle);
    let path = bundle.rootfs().join(name);
    if path.is_dir() {
        fs::remove_dir(&path).unwrap();
    } else if path.exists() {
        fs::remove_file(&path).unwrap();
    }
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    let target = if DIRECTORIES.contains(&name) { canary.directory() } else { canary.file() };
    make(&path, &target);
    let ear = (oddity == "a fifo").then(|| Ear::new(&path));
    let what = format!("/{name} is {oddity}");
    println!("{what}");
    let mounted = lay(&bundle);
    let output = bundle.run();
    drop(mounted);
    if output.code() == 0 {
        assert!(output.stdout().trim_end().ends_with("ran"), "{what}: {output}");
    } else {
        output.refused(1, &[]);
    }
    canary.assert_untouched();
    bundle.assert_nothing_left(&what);
    assert!(ear.is_none_or(|ear| ear.heard_nobody()), "{what}, and was opened");
}

/// A reader of a fifo, which knows whether anybody has opened it for writing.
struct Ear(File);

impl Ear {
    fn new(fifo: &Path) -> Ear {
        Ear(OpenOptions::new().read(true).custom_flags(nix::libc::O_NONBLOCK).open(fifo).unwrap())
    }

    fn heard_nobody(&self) -> bool {
        let mut fds = [PollFd::new(&self.0, PollFlags::IN)];
        poll(&mut fds, Some(&Timespec::default())).unwrap() == 0
    }
}

fn every(names: &[&str], change: fn(&mut Bundle)) {
    every_below(names, change, |_| None);
}

fn every_below(names: &[&str], change: fn(&mut Bundle), lay: fn(&Bundle) -> Option<Mounted>) {
    let pairs = names.iter().flat_map(|name| ODDITIES.iter().map(move |oddity| (name, oddity)));
    for (name, oddity) in affordable(pairs, MOST) {
        run_with(name, *oddity, change, lay);
    }
}

/// The image is the lower layer of what the container gets, as engines have it.
fn overlay(bundle: &Bundle) -> Option<Mounted> {
    let [upper, work] = ["upper", "work"].map(|name| bundle.scratch().join(name));
    [&upper, &work].into_iter().for_each(|layer| fs::create_dir(layer).unwrap());
    let root = bundle.rootfs();
    let layers =
        format!("lowerdir={},upperdir={},workdir={}", root.display(), upper.display(), work.display());
    let mount = Command::new("mount").args(["-t", "overlay", "overlay", "-o", &layers]).arg(&root).status();
    assert!(mount.unwrap().success(), "mount an overlay");
    Some(Mounted::adopt(&root))
}

fn forget_mount(bundle: &mut Bundle, destination: &str) {
    let mounts = bundle.config["mounts"].as_array_mut().unwrap();
    mounts.retain(|mount| mount["destination"] != destination);
}

fn mount_tmpfs(bundle: &mut Bundle, destination: &str) {
    bundle.mount(json!({"destination": destination, "type": "tmpfs", "source": "tmpfs"}));
}

#[test]
fn whatever_stands_for_a_directory_the_host_is_untouched() {
    let _root = bundle!();
    every(DIRECTORIES, |bundle| {
        mount_tmpfs(bundle, "/run");
        mount_tmpfs(bundle, "/tmp/below");
    });
}

#[test]
fn whatever_stands_for_a_directory_of_an_image_that_brings_its_own_dev_the_host_is_untouched() {
    let _root = bundle!();
    let names: Vec<&str> = DIRECTORIES.iter().copied().filter(|name| name.starts_with("dev")).collect();
    every(&names, |bundle| forget_mount(bundle, "/dev"));
}

#[test]
fn whatever_stands_for_a_file_of_an_image_that_brings_its_own_dev_the_host_is_untouched() {
    let _root = bundle!();
    every(FILES, |bundle| {
        forget_mount(bundle, "/dev");
        bundle.unset("/process", "env");
    });
}

#[test]
fn whatever_stands_in_the_lower_layer_of_an_overlay_the_host_is_untouched() {
    let _root = bundle!();
    every_below(&["dev", "proc", "tmp", "dev/null"], |bundle| forget_mount(bundle, "/dev"), overlay);
}

#[test]
fn whatever_stands_for_a_file_a_terminal_is_made_inside_or_not_at_all() {
    let _root = bundle!();
    every(&["dev/console", "dev/pts", "dev/ptmx"], |bundle| {
        forget_mount(bundle, "/dev");
        bundle.set("/process/terminal", json!(true));
    });
}

#[test]
fn whatever_is_masked_or_read_only_the_host_is_untouched() {
    let _root = bundle!();
    every(&["etc/passwd", "tmp"], |bundle| {
        bundle.set("/linux/maskedPaths", json!(["/etc/passwd", "/tmp"]));
        bundle.set("/linux/readonlyPaths", json!(["/tmp", "/etc/passwd"]));
    });
}

#[test]
fn a_null_device_that_is_something_else_is_not_even_opened() {
    let mut bundle = bundle!();
    let dev = bundle.scratch().join("dev");
    fs::create_dir(&dev).unwrap();
    mkfifo(&dev.join("null"), Mode::S_IRWXU).unwrap();
    let ear = Ear::new(&dev.join("null"));
    for destination in ["/dev/pts", "/dev/shm", "/dev/mqueue", "/dev"] {
        forget_mount(&mut bundle, destination);
    }
    bundle.mount(json!({"destination": "/dev", "source": dev, "options": ["bind"]}));
    bundle.args(&["/bin/echo", "ran"]);
    assert_eq!(bundle.run().ok().stdout(), "ran\n");
    assert!(ear.heard_nobody(), "the fifo was opened");
}

#[test]
fn a_link_of_the_image_onto_procfs_is_no_place_for_a_mount() {
    for (link, to) in [("self", "/proc/self"), ("attr", "/proc/self/attr"), ("sys", "../proc/sys")] {
        for mount in [
            json!({"type": "tmpfs", "source": "tmpfs"}),
            json!({"type": "bind", "source": "/tmp", "options": ["bind"]}),
            json!({"options": ["remount", "rw"]}),
        ] {
            let mut bundle = bundle!();
            fs::create_dir(bundle.rootfs().join("odd")).unwrap();
            symlink(to, bundle.rootfs().join("odd").join(link)).unwrap();
            let mut mount: Value = mount;
            mount["destination"] = json!(format!("/odd/{link}"));
            bundle.mount(mount);
            bundle.args(&["/bin/true"]);
            bundle.run().refused(1, &["/proc"]);
            bundle.assert_nothing_left("the refusal");
        }
    }
}
