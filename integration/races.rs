//! Races against the setup: a thread swaps a directory and a link to the host, without pause, in a volume that two
//! containers would share or in the image itself, while containers are made with many places below it.
//!
//! A round is one such place. `CORTEN_ROUNDS` asks for more of them than CI takes.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

use rustix::fs::{CWD, RenameFlags, renameat_with};
use serde_json::{Value, json};

use crate::advisories::Attack;
use crate::bundle::{Bundle, bundle, skip};
use crate::call::is_emulated;

const ROUNDS: usize = 2000;
/// Where every container takes a second (`hack/vm`).
const ROUNDS_EMULATED: usize = 80;
const PLACES: usize = 40;
/// So many further attempts at one container, if there was none in the rounds.
const PATIENCE: usize = 50;

fn rounds() -> usize {
    let usual = if is_emulated() { ROUNDS_EMULATED } else { ROUNDS };
    std::env::var("CORTEN_ROUNDS").map_or(usual, |text| text.parse().expect("CORTEN_ROUNDS is a number"))
}

/// Two names that change places as long as this runs.
struct Swap {
    one: PathBuf,
    other: PathBuf,
}

impl Swap {
    /// Runs `attempt` while they do, until it has had all its rounds, of which each call is `places`. It says whether a
    /// container came of it: if none ever does, nothing was tried. In the end `one` is back in its place.
    fn during(&self, places: usize, mut attempt: impl FnMut() -> bool) {
        let stop = AtomicBool::new(false);
        let swaps = AtomicUsize::new(0);
        let exchange = || {
            renameat_with(CWD, &self.one, CWD, &self.other, RenameFlags::EXCHANGE).expect("exchange");
            swaps.fetch_add(1, Ordering::Relaxed);
        };
        thread::scope(|scope| {
            let swapper = scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) || swaps.load(Ordering::Relaxed) % 2 == 1 {
                    exchange();
                }
            });
            let usual = rounds().div_ceil(places);
            let caught = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                let mut made = (0..usual).filter(|_| attempt()).count();
                // Where rounds are few, all of them may have been refused.
                made += usize::from(made == 0 && (0..PATIENCE).any(|_| attempt()));
                made
            }));
            stop.store(true, Ordering::Relaxed);
            swapper.join().expect("the swapper");
            let made = caught.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            println!("{made} containers of {usual}");
            assert!(made > 0, "no container was ever made");
        });
        assert!(swaps.load(Ordering::Relaxed) > 100, "hardly a race: {swaps:?} swaps");
    }
}

/// A volume mounted on `/volume`, in which `place` and a link to the canary's parent take turns. What is below `place`
/// has the names of what is beside the canary.
fn volume(attack: &mut Attack) -> Swap {
    let volume = attack.bundle.scratch().join("volume");
    fs::create_dir_all(volume.join("place/canary")).unwrap();
    fs::write(volume.join("place/canary/ptmx"), "the volume's").unwrap();
    symlink(attack.canary.directory().parent().unwrap(), volume.join("link")).unwrap();
    attack.bundle.mount(json!({"destination": "/volume", "source": volume, "options": ["bind"]}));
    Swap { one: volume.join("place"), other: volume.join("link") }
}

/// One container, refused or not as the race goes.
fn attempt(attack: &Attack) -> bool {
    let output = attack.bundle.run();
    if output.code() != 0 {
        assert_eq!(output.stderr.lines().count(), 1, "{output}");
    }
    output.code() == 0
}

fn mount_all(bundle: &mut Bundle, places: impl Iterator<Item = (String, Value)>) {
    for (destination, mut mount) in places {
        mount["destination"] = json!(destination);
        bundle.mount(mount);
    }
}

#[test]
fn cve_2021_30465_no_mount_lands_outside_of_a_root_that_changes() {
    let mut attack = Attack::new(bundle!());
    let swap = volume(&mut attack);
    let tmpfs = json!({"type": "tmpfs", "source": "tmpfs"});
    mount_all(&mut attack.bundle, (0..PLACES).map(|_| ("/volume/place/canary".to_string(), tmpfs.clone())));
    attack.bundle.args(&["/bin/cat", "/proc/self/mountinfo"]);
    swap.during(PLACES, || {
        let output = attack.bundle.run();
        if output.code() == 0 {
            // What was mounted outside of the root is gone from the table with the host's own mounts.
            let led_to = attack.canary.directory();
            let table = output.stdout();
            // A mount goes along with its directory, whatever that is called now.
            let inside = |line: &&str| {
                let place = line.split(' ').nth(4).unwrap_or_default();
                place.starts_with("/volume/") || Some(place) == led_to.to_str()
            };
            assert_eq!(table.lines().filter(inside).count(), PLACES, "{table}");
        }
        attack.canary.assert_untouched();
        output.code() == 0
    });
    attack.assert_harmless();
}

#[test]
fn cve_2024_45310_nothing_is_made_outside_of_a_root_that_changes() {
    let mut attack = Attack::new(bundle!());
    let swap = volume(&mut attack);
    let file = attack.bundle.rootfs().join("etc/passwd");
    let places = (0..PLACES).map(|number| match number % 2 {
        0 => {
            (format!("/volume/place/canary/new-{number}/below"), json!({"type": "tmpfs", "source": "tmpfs"}))
        }
        _ => (format!("/volume/place/canary/file-{number}"), json!({"source": file, "options": ["bind"]})),
    });
    mount_all(&mut attack.bundle, places);
    attack.bundle.args(&["/bin/true"]);
    let made = swap.one.join("canary");
    swap.during(PLACES, || {
        let made_one = attempt(&attack);
        // So that there is something to make again, wherever it is now.
        for entry in fs::read_dir(&made).into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().to_string();
            if name.starts_with("new-") || name.starts_with("file-") {
                assert!(!attack.canary.directory().join(&name).exists(), "made on the host: {name}");
                // One of the two is for this kind of file, and the place may have changed again.
                let _ = fs::remove_dir_all(entry.path());
                let _ = fs::remove_file(entry.path());
            }
        }
        made_one
    });
    attack.assert_harmless();
}

/// The rounds that end in a container tell by what is mounted there.
fn assert_masked(output: &str, what: &str) {
    for line in output.lines() {
        let stat: Value = serde_json::from_str(line).unwrap();
        let masked = (&stat["major"], &stat["minor"]) == (&json!(1), &json!(3));
        assert!(masked || stat["error"] == "ENOENT" || stat["type"] == "directory", "{what}: {stat}");
    }
}

#[test]
fn cve_2025_31133_cve_2025_62161_a_mask_is_the_null_device_while_dev_null_changes() {
    let mut attack = Attack::new(bundle!());
    let dev = attack.bundle.scratch().join("dev");
    fs::create_dir(&dev).unwrap();
    fs::write(dev.join("null"), "").unwrap();
    symlink(attack.canary.file(), dev.join("link")).unwrap();
    let swap = Swap { one: dev.join("null"), other: dev.join("link") };
    let secrets: Vec<String> = (0..PLACES).map(|number| format!("/etc/secret-{number}")).collect();
    for secret in &secrets {
        fs::write(attack.bundle.rootfs().join(&secret[1..]), "secret").unwrap();
    }
    // In a /dev of its own nothing is made that such a file would be in the way of.
    attack.only_proc_mounted().mount(json!({"destination": "/dev", "source": dev, "options": ["bind"]}));
    attack
        .bundle
        .set("/linux/maskedPaths", json!(secrets))
        .set("/linux/readonlyPaths", json!([]))
        .privileged();
    attack
        .bundle
        .shell("for f in /etc/secret-*; do /witness stat $f; echo overwritten > $f; done 2>/dev/null");
    swap.during(PLACES, || {
        let output = attack.bundle.run();
        if output.code() == 0 {
            assert_masked(&output.stdout(), "a mask");
        }
        attack.canary.assert_untouched();
        output.code() == 0
    });
    attack.assert_harmless();
}

#[test]
fn ghsa_3q8j_pf29_vwv8_paths_are_hidden_where_they_are_while_they_change() {
    let mut attack = Attack::new(bundle!());
    let swap = volume(&mut attack);
    let paths: Vec<String> =
        (0..PLACES).map(|number| format!("/volume/place/canary/{}", ["ptmx", ""][number % 2])).collect();
    attack
        .bundle
        .set("/linux/maskedPaths", json!(paths))
        .set("/linux/readonlyPaths", json!(paths))
        .privileged();
    // What stays in one place is hidden, whatever happens beside it.
    fs::write(attack.bundle.rootfs().join("etc/secret"), "secret").unwrap();
    attack.bundle.config["linux"]["maskedPaths"].as_array_mut().unwrap().push(json!("/etc/secret"));
    attack.bundle.config["linux"]["readonlyPaths"].as_array_mut().unwrap().push(json!("/tmp"));
    attack.bundle.shell("/witness stat /etc/secret; /witness create /tmp/new");
    swap.during(2 * PLACES, || {
        let output = attack.bundle.run();
        if output.code() == 0 {
            let text = output.stdout();
            let (stat, created) = text.trim_end().split_once('\n').expect("two lines");
            assert_masked(stat, "beside a race");
            assert_eq!(created, "EROFS");
        }
        attack.canary.assert_untouched();
        output.code() == 0
    });
    attack.assert_harmless();
    fs::write(attack.canary.file(), "the host's").expect("the canary is writable still");
}

#[test]
fn cve_2025_52565_the_console_is_bound_on_no_file_of_the_host_while_dev_changes() {
    let mut attack = Attack::new(bundle!());
    let dev = attack.bundle.scratch().join("dev");
    fs::create_dir(&dev).unwrap();
    // The volume is all of /dev: its console, and its pts, lead to the host in turn.
    fs::write(dev.join("console"), "").unwrap();
    symlink(attack.canary.directory().join("new"), dev.join("link")).unwrap();
    fs::create_dir(dev.join("pts")).unwrap();
    symlink("pts/ptmx", dev.join("ptmx")).unwrap();
    attack.only_proc_mounted();
    attack.bundle.mount(json!({"destination": "/dev", "source": dev, "options": ["bind"]}));
    attack.bundle.mount(json!({"destination": "/dev/pts", "type": "devpts", "source": "devpts",
        "options": ["newinstance", "ptmxmode=0666", "mode=0620"]}));
    attack.bundle.set("/process/terminal", json!(true)).privileged();
    attack.bundle.shell("echo overwritten > /dev/console; true");
    let swap = Swap { one: dev.join("console"), other: dev.join("link") };
    // Opened, made, looked at, bound: each a chance of the race.
    swap.during(8, || {
        let made = attempt(&attack);
        attack.canary.assert_untouched();
        made
    });
    attack.assert_harmless();
}

#[test]
fn cve_2025_52881_cve_2025_62596_what_is_written_to_procfs_goes_nowhere_else_while_proc_changes() {
    let mut attack = Attack::new(bundle!());
    let root = attack.bundle.rootfs();
    // A procfs of the image's own making, whose every file is the canary's.
    let fake = root.join("fake");
    for (directory, file) in [
        ("sys/kernel", "domainname"),
        ("sys/net/ipv4", "ip_forward"),
        ("self/attr", "exec"),
        ("sys/fs/mqueue", "msg_max"),
    ] {
        fs::create_dir_all(fake.join(directory)).unwrap();
        symlink(attack.canary.file(), fake.join(directory).join(file)).unwrap();
    }
    fs::create_dir_all(fake.join("self/attr/apparmor")).unwrap();
    symlink(attack.canary.file(), fake.join("self/attr/apparmor/exec")).unwrap();
    let swap = Swap { one: root.join("proc"), other: fake };
    let sysctls = json!({"net.ipv4.ip_forward": "1", "fs.mqueue.msg_max": "9"});
    attack.bundle.set("/linux/sysctl", sysctls).args(&["/bin/true"]);
    attack.bundle.set("/process/oomScoreAdj", json!(500));
    // Two sysctls, the score, the mount itself and what is masked below it.
    let hidden = attack.bundle.config["linux"]["maskedPaths"].as_array().map_or(0, Vec::len);
    swap.during(4 + hidden, || {
        let made = attempt(&attack);
        attack.canary.assert_untouched();
        made
    });
    attack.assert_harmless();
}

#[test]
fn cve_2026_41579_cve_2026_47766_nothing_is_made_on_the_host_while_dev_changes() {
    let mut attack = Attack::new(bundle!());
    let root = attack.bundle.rootfs();
    symlink(attack.canary.directory(), root.join("link")).unwrap();
    let swap = Swap { one: root.join("dev"), other: root.join("link") };
    attack.only_proc_mounted().args(&["/bin/true"]);
    // Six devices and six links.
    swap.during(12, || {
        let made = attempt(&attack);
        attack.canary.assert_untouched();
        made
    });
    attack.assert_harmless();
}

/// A root whose way is swapped under the runtime is the one or the other, and never somewhere else.
#[test]
fn a_root_that_changes_while_it_is_opened_is_a_directory_of_the_bundle() {
    let mut attack = Attack::new(bundle!());
    let (root, link) = (attack.bundle.rootfs(), attack.bundle.path().join("link"));
    symlink(attack.canary.directory(), &link).unwrap();
    let swap = Swap { one: root, other: link };
    attack.bundle.args(&["/bin/true"]).write_config();
    // Looked at, opened, entered, each with the ways to it.
    swap.during(10, || {
        let made = attempt(&attack);
        attack.canary.assert_untouched();
        made
    });
    attack.assert_harmless();
}

/// Joining a container that ends meanwhile is joining it or a plain error, never somebody else.
#[test]
fn exec_into_a_container_that_ends_joins_it_or_nobody() {
    let host = fs::read_link("/proc/self/ns/mnt").unwrap();
    for _ in 0..20 {
        let mut bundle = bundle!();
        bundle.running();
        thread::scope(|scope| {
            let killer = scope.spawn(|| bundle.kill("KILL"));
            for _ in 0..3 {
                let output = bundle.exec(&["/bin/readlink", "/proc/self/ns/mnt"]);
                assert!(!output.stdout().contains(host.to_str().unwrap()), "{output}");
                assert!(output.stderr.lines().count() <= 1, "{output}");
            }
            killer.join().unwrap();
        });
    }
}
