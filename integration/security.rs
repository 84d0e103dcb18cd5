//! Security: what is hidden stays hidden, and what broke other runtimes does not break this one, CVE by CVE.
//! Images are hostile here; a canary outside the root tells whether one of them got out.

use std::fs;
use std::io::{ErrorKind, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::unistd::{getegid, geteuid};
use serde_json::{Value, json};

use crate::advisories::Attack;
use crate::bundle::{Bundle, bundle, runtime, skip};
use crate::call::{Call, eventually};
use crate::mounts::{has, mount_at};
use crate::namespaces::map_users;
use crate::traces::Traces;

/// A directory of the host with one file, which no container has any business with.
pub struct Canary {
    directory: PathBuf,
}

impl Canary {
    pub fn new(bundle: &Bundle) -> Canary {
        let directory = bundle.scratch().join("canary");
        fs::create_dir(&directory).unwrap();
        fs::write(directory.join("ptmx"), "the host's").unwrap();
        fs::set_permissions(directory.join("ptmx"), fs::Permissions::from_mode(0o640)).unwrap();
        Canary { directory }
    }

    pub fn directory(&self) -> PathBuf {
        self.directory.clone()
    }

    pub fn file(&self) -> PathBuf {
        self.directory.join("ptmx")
    }

    #[track_caller]
    pub fn assert_untouched(&self) {
        let names: Vec<_> =
            fs::read_dir(&self.directory).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(names, ["ptmx"], "the host's directory changed");
        assert_eq!(fs::read_to_string(self.file()).unwrap(), "the host's");
        let metadata = fs::metadata(self.file()).unwrap();
        let own = (geteuid().as_raw(), getegid().as_raw());
        assert_eq!((metadata.mode() & 0o7777, metadata.uid(), metadata.gid()), (0o640, own.0, own.1));
        let mounts = Traces::of(self.directory.to_str().unwrap(), &[]).mounts;
        assert!(mounts.is_empty(), "{mounts:?}");
    }
}

#[test]
fn masked_files_read_as_nothing_and_masked_directories_are_empty() {
    let mut bundle = bundle!();
    fs::write(bundle.rootfs().join("etc/secret"), "secret").unwrap();
    bundle.set(
        "/linux/maskedPaths",
        json!(["/etc/secret", "/bin", "/proc/keys", "/missing", "/missing/below"]),
    );
    bundle.args(&["/witness", "report"]);
    bundle.running();
    let ask = |word: &str, path: &str| bundle.exec(&["/witness", word, path]).ok().json();
    for path in ["/etc/secret", "/proc/keys"] {
        let stat = ask("stat", path);
        assert_eq!(
            (&stat["type"], &stat["major"], &stat["minor"]),
            (&json!("char"), &json!(1), &json!(3)),
            "{path}"
        );
    }
    assert_eq!(ask("list", "/bin"), json!([]));
    assert_eq!(ask("stat", "/missing")["error"], "ENOENT");
    let attempt = bundle.exec(&["/witness", "create", "/bin/new"]).ok().stdout();
    assert_eq!(attempt, "EROFS\n");
}

#[test]
fn read_only_paths_cannot_be_written_and_keep_their_flags() {
    let mut bundle = bundle!();
    bundle.set("/root/readonly", json!(false)).privileged();
    fs::write(bundle.rootfs().join("etc/fixed"), "fixed").unwrap();
    bundle.mount(json!({"destination": "/mnt", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "nodev", "noexec"]}));
    bundle.set("/linux/readonlyPaths", json!(["/etc/fixed", "/tmp", "/mnt", "/proc/sys", "/missing"]));
    bundle.shell(
        "/witness write /etc/fixed x; /witness create /tmp/x; /witness create /mnt/x; \
         /witness write /proc/sys/kernel/domainname x; /witness create /root/x; grep ' /mnt ' /proc/self/mountinfo",
    );
    let output = bundle.run().ok().stdout();
    let lines: Vec<&str> = output.lines().collect();
    assert_eq!(lines[..5], ["EROFS", "EROFS", "EROFS", "EROFS", "ok"]);
    let last = lines.last().unwrap();
    for flag in ["ro", "nosuid", "nodev", "noexec"] {
        assert!(last.split([' ', ',']).any(|word| word == flag), "{last} without {flag}");
    }
}

#[test]
fn the_default_bundle_hides_what_its_lists_name() {
    let mut bundle = bundle!();
    bundle.privileged();
    let masked = bundle.config["linux"]["maskedPaths"].clone();
    let readonly = bundle.config["linux"]["readonlyPaths"].clone();
    bundle.running();
    for path in masked.as_array().unwrap() {
        let path = path.as_str().unwrap();
        let line = format!("if [ -d {path} ]; then ls {path}; elif [ -e {path} ]; then cat {path}; fi");
        assert_eq!(bundle.exec(&["/bin/sh", "-c", &line]).ok().stdout(), "", "{path}");
    }
    let report = bundle.exec(&["/witness", "report"]).ok().json();
    for path in readonly.as_array().unwrap() {
        let path = path.as_str().unwrap();
        if bundle.exec(&["/bin/test", "-e", path]).code() == 0 {
            assert!(has(&mount_at(&report, path)["options"], "ro"), "{path} is writable");
        }
    }
}

/// A runtime of the test's own, so that losing it harms nobody.
fn own_runtime(bundle: &mut Bundle) -> Vec<u8> {
    bundle.runtime = bundle.copy_of_runtime();
    fs::read(&bundle.runtime).unwrap()
}

/// What cleans up is a runtime in any case.
#[track_caller]
fn assert_own_runtime_is(bundle: &mut Bundle, before: &[u8]) {
    let own = std::mem::replace(&mut bundle.runtime, runtime());
    assert!(fs::read(own).unwrap() == before, "the runtime was overwritten");
}

/// A process of the container lies in wait for the runtime, which comes into it as `program`, and stays until somebody
/// reads the fifo that it has been told to write its log to.
fn ambush(bundle: &mut Bundle, program: &[&str]) {
    let before = own_runtime(bundle);
    bundle.privileged().args(&["/witness", "overwrite"]);
    let log = bundle.rootfs().join("log");
    nix::unistd::mkfifo(&log, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let output = bundle.create().ok();
    bundle.start().ok();
    let says = |word: &str| output.stdout().contains(word).then_some(());
    eventually("the attacker lies in wait", || says("ready"));
    let victim = bundle.call(["exec", &bundle.id]).args(program).spawn();
    eventually("the runtime is caught", || says("caught"));
    let reader = fs::OpenOptions::new().read(true).custom_flags(nix::libc::O_NONBLOCK).open(&log);
    victim.wait();
    drop(reader);
    eventually("the attacker has tried", || (output.stdout().lines().count() == 3).then_some(()));
    assert_own_runtime_is(bundle, &before);
    let verdict = output.stdout().lines().last().map(String::from);
    assert!(["EROFS", "EPERM"].contains(&verdict.as_deref().unwrap()), "{verdict:?}");
}

#[test]
fn cve_2019_5736_the_runtime_cannot_be_overwritten_from_a_container() {
    ambush(&mut bundle!(), &["/proc/self/exe", "--log=/log", "state", "x"]);
}

#[test]
fn cve_2019_5736_an_image_that_runs_the_runtime_gets_a_copy_that_is_not_writable() {
    let mut bundle = bundle!();
    bundle.program("entry", "#!/proc/self/exe --log=/log\n");
    ambush(&mut bundle, &["/entry"]);
}

#[test]
fn cve_2024_21626_a_leaked_descriptor_is_no_way_out_for_cwd() {
    for number in 3..20 {
        let mut bundle = bundle!();
        bundle.set("/process/cwd", json!(format!("/proc/self/fd/{number}"))).args(&["/bin/ls"]);
        let output = bundle.run();
        assert_ne!(output.code(), 0, "/proc/self/fd/{number}: {output}");
        assert_eq!(output.stdout(), "");
        bundle.assert_nothing_left("a cwd outside");
    }
}

#[test]
fn cve_2024_21626_exec_has_no_way_out_either() {
    let mut bundle = bundle!();
    bundle.running();
    for number in 3..20 {
        for below in ["", "/..", "/../../.."] {
            let cwd = format!("/proc/self/fd/{number}{below}");
            let output = bundle.call(["exec", "--cwd", &cwd, &bundle.id, "/bin/ls"]).output();
            assert_ne!(output.code(), 0, "{cwd}: {output}");
            assert_eq!(output.stdout(), "");
        }
    }
}

/// A program of the host that needs nothing else of it, as a dynamic one would: it would run if it were reached.
#[test]
fn cve_2024_21626_a_program_is_not_taken_from_a_descriptor_of_the_runtime() {
    let mut bundle = bundle!();
    let hosts = bundle.scratch().join("true");
    fs::copy(bundle.rootfs().join("bin/busybox"), &hosts).unwrap();
    let reach = |number: i32| format!("/proc/self/fd/{number}/{}{}", "../".repeat(20), hosts.display());
    for number in 3..32 {
        bundle.args(&[&reach(number)]);
        let output = bundle.run();
        assert_ne!(output.code(), 0, "{number}: {output}");
    }
    bundle.args(&["/bin/sleep", "60"]).running();
    for number in 3..32 {
        let link = bundle.rootfs().join(format!("bin/through-{number}"));
        std::os::unix::fs::symlink(reach(number), link).unwrap();
        bundle.exec(&[&reach(number)]).refused(255, &["exec: "]);
        bundle.exec(&[&format!("/bin/through-{number}")]).refused(255, &["exec: "]);
    }
}

/// A socket that holds up whoever connects to it: its queue is full.
fn full_socket(path: &Path) -> (OwnedFd, OwnedFd) {
    use nix::sys::socket::*;
    let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
    let make = || socket(AddressFamily::Unix, SockType::Stream, flags, None).unwrap();
    let (listener, first) = (make(), make());
    let address = UnixAddr::new(path).unwrap();
    bind(listener.as_raw_fd(), &address).unwrap();
    listen(&listener, Backlog::new(0).unwrap()).unwrap();
    connect(first.as_raw_fd(), &address).unwrap();
    assert_eq!(connect(make().as_raw_fd(), &address), Err(nix::errno::Errno::EAGAIN));
    (listener, first)
}

/// The runtime stands still when the process has joined, and is looked at as root of the container can.
#[test]
fn cve_2016_9962_a_process_that_joins_shows_its_descriptors_to_nobody() {
    let mut bundle = bundle!();
    map_users(&mut bundle);
    bundle.privileged().args(&["/bin/sleep", "60"]);
    bundle.running();
    let path = bundle.scratch().join("full");
    let queue = full_socket(&path);
    let call = bundle.call(["exec", "--pidfd-socket"]).arg(&path).args([&bundle.id, "/bin/sleep", "60"]);
    let joining = call.spawn();
    let look = "for p in /proc/[0-9]*; do echo $(readlink $p/exe) $(readlink $p/cwd) $(ls $p/fd); done";
    let seen = eventually("the process has joined", || {
        let seen = bundle.exec(&["/bin/sh", "-c", look]).ok().stdout();
        // The first process, the shell that looks, and the one that joins.
        (seen.lines().count() == 3).then_some(seen)
    });
    drop(queue);
    joining.wait().refused(255, &["pidfd socket"]);
    let ours = ["/bin/busybox ", "/witness "];
    let visible: Vec<&str> = seen.lines().filter(|line| !line.is_empty()).collect();
    assert!(
        visible.len() == 2 && visible.iter().all(|line| ours.iter().any(|own| line.starts_with(own))),
        "{seen}"
    );
}

#[test]
fn cve_2026_41579_a_dev_that_is_a_link_does_not_lead_to_the_host() {
    let mut bundle = bundle!();
    let canary = Canary::new(&bundle);
    fs::remove_dir(bundle.rootfs().join("dev")).unwrap();
    symlink(&canary.directory, bundle.rootfs().join("dev")).unwrap();
    bundle.args(&["/bin/true"]);
    // It may be refused, or made inside the root.
    bundle.run();
    canary.assert_untouched();
    // Without a mount on /dev, devices and links are made in the image itself.
    bundle.config["mounts"]
        .as_array_mut()
        .unwrap()
        .retain(|mount| !mount["destination"].as_str().unwrap().starts_with("/dev"));
    bundle.run();
    canary.assert_untouched();
}

#[test]
fn cve_2025_31133_a_dev_null_that_is_a_link_masks_nothing_with_the_host() {
    for mask in ["/proc/keys", "/etc/secret"] {
        let mut attack = Attack::new(bundle!());
        attack.brings_dev();
        let bundle = &mut attack.bundle;
        fs::write(bundle.rootfs().join("etc/secret"), "secret").unwrap();
        bundle.set("/linux/maskedPaths", json!([mask])).privileged();
        bundle.shell(&format!("/witness stat {mask}; echo overwritten > {mask}"));
        let output = bundle.run().ok();
        attack.assert_harmless();
        let stat: Value = serde_json::from_str(output.stdout().lines().next().unwrap()).unwrap();
        assert_eq!((&stat["major"], &stat["minor"]), (&json!(1), &json!(3)), "{stat}");
    }
}

#[test]
fn cve_2026_88264_a_dev_console_that_is_a_link_makes_no_file_on_the_host() {
    let mut attack = Attack::new(bundle!());
    attack.brings_dev();
    attack.bundle.args(&["/bin/true"]);
    attack.create_with_terminal();
    attack.assert_harmless();
}

#[test]
fn cve_2026_88265_closed_stdio_is_not_opened_through_the_image() {
    let mut attack = Attack::new(bundle!());
    attack.brings_dev();
    let bundle = &mut attack.bundle;
    bundle
        .set("/process/user", json!({"uid": 1000, "gid": 1000}))
        .shell("echo overwritten; echo overwritten >&2");
    let call = bundle.birth("run", &[]);
    crate::descriptors::with_files(bundle, call, "0<&- 1>&- 2>&-").output().ok();
    attack.assert_harmless();
}

#[test]
fn cve_2019_18837_a_mount_target_that_is_a_link_stays_inside() {
    let mut bundle = bundle!();
    let canary = Canary::new(&bundle);
    let source = bundle.scratch().join("source");
    fs::write(&source, "from the source").unwrap();
    symlink(canary.directory.join("new"), bundle.rootfs().join("etc/foo")).unwrap();
    symlink(canary.file(), bundle.rootfs().join("etc/bar")).unwrap();
    for target in ["/etc/foo", "/etc/bar"] {
        bundle.mount(json!({"destination": target, "source": source, "options": ["bind"]}));
    }
    bundle.args(&["/bin/true"]);
    bundle.run();
    canary.assert_untouched();
}

#[test]
fn cve_2019_19921_proc_and_sys_are_not_mounted_through_a_link() {
    for (name, target) in [("proc", "/etc"), ("proc", "../.."), ("sys", "/tmp"), ("sys", "..")] {
        let mut bundle = bundle!();
        let canary = Canary::new(&bundle);
        fs::remove_dir(bundle.rootfs().join(name)).unwrap();
        symlink(target, bundle.rootfs().join(name)).unwrap();
        bundle.args(&["/bin/true"]);
        bundle.run().refused(1, &[name]);
        bundle.assert_nothing_left(name);
        canary.assert_untouched();
    }
}

#[test]
fn cve_2019_16884_nothing_but_proc_is_mounted_on_proc() {
    let volume = |bundle: &Bundle| {
        let volume = bundle.scratch().join("volume");
        fs::create_dir_all(volume.join("self/attr")).unwrap();
        fs::write(volume.join("self/attr/exec"), "").unwrap();
        volume
    };
    for target in
        ["/proc", "/proc/self", "/proc/sys", "/proc/1/attr", "//proc/./self/attr", "/etc/../proc/self"]
    {
        let mut bundle = bundle!();
        let source = volume(&bundle);
        bundle.mount(json!({"destination": target, "source": source, "options": ["bind"]}));
        bundle.args(&["/bin/true"]);
        bundle.run().refused(1, &["proc"]);
        bundle.assert_nothing_left(target);
    }
    let mut bundle = bundle!();
    bundle.config["mounts"][0] = json!({"destination": "/proc", "type": "tmpfs", "source": "tmpfs"});
    bundle.args(&["/bin/true"]).run().refused(1, &["proc"]);
}

#[test]
fn cve_2021_43784_more_mappings_than_64_kib_are_a_plain_error() {
    let mut bundle = bundle!();
    bundle.add_namespace(json!({"type": "user"}));
    let mappings: Vec<Value> =
        (0..5000).map(|id| json!({"containerID": id, "hostID": 100_000 + 2 * id, "size": 1})).collect();
    bundle.set("/linux/uidMappings", json!(mappings)).set("/linux/gidMappings", json!(mappings));
    bundle.create().refused(1, &["apping"]);
    bundle.assert_nothing_left("create");
}

#[test]
fn a_tiny_limit_of_files_or_processes_does_not_stop_the_runtime() {
    let mut bundle = bundle!();
    bundle.set(
        "/process/rlimits",
        json!([
            {"type": "RLIMIT_NOFILE", "soft": 3, "hard": 3},
            {"type": "RLIMIT_NPROC", "soft": 1, "hard": 1},
            {"type": "RLIMIT_CORE", "soft": 0, "hard": 0},
        ]),
    );
    bundle.args(&["/bin/echo", "ran"]);
    assert_eq!(bundle.run().ok().stdout(), "ran\n");
}

#[test]
fn file_systems_with_links_for_standard_directories_are_harmless() {
    for name in ["dev/pts", "dev/shm", "dev/mqueue", "run", "tmp", "etc/hosts"] {
        let mut bundle = bundle!();
        let canary = Canary::new(&bundle);
        // Where the link leads to, below the root.
        let inside = bundle.rootfs().join(canary.directory.strip_prefix("/").unwrap());
        let path = bundle.rootfs().join(name);
        if name != "tmp" {
            fs::create_dir_all(inside).unwrap();
        }
        if path.is_dir() {
            fs::remove_dir(&path).unwrap();
        }
        symlink(&canary.directory, &path).unwrap();
        let source = format!("tmpfs-{}", bundle.id);
        for target in [format!("/{name}"), format!("/{name}/below")] {
            bundle.mount(json!({"destination": target, "type": "tmpfs", "source": source}));
        }
        bundle.args(&["/bin/cat", "/proc/self/mountinfo"]);
        let output = bundle.run();
        canary.assert_untouched();
        if name == "tmp" {
            // The way to itself.
            output.refused(1, &["/tmp"]);
            continue;
        }
        // What is mounted outside of the root, the container does not see.
        let table = output.ok().stdout();
        assert_eq!(table.matches(&source).count(), 2, "{name}: {table}");
    }
}

#[test]
fn cve_2019_5736_the_executable_of_a_waiting_init_cannot_be_written() {
    let mut bundle = bundle!();
    let before = own_runtime(&mut bundle);
    bundle.privileged().args(&["/bin/true"]);
    bundle.create().ok();
    // From inside, and, when it is executed no more, from outside, as root of the host.
    let exe = fs::File::open(format!("/proc/{}/exe", bundle.pid())).unwrap();
    let attempt = bundle.exec(&["/witness", "write", "/proc/1/exe", "overwritten"]).ok().stdout();
    assert!(["EROFS\n", "ETXTBSY\n"].contains(&attempt.as_str()), "{attempt}");
    bundle.exec(&["/bin/mount", "-o", "remount,bind,rw", "/proc/1/exe"]);
    bundle.verb("delete", &["--force"]).ok();
    let again = format!("/proc/self/fd/{}", exe.as_raw_fd());
    let attempt =
        fs::OpenOptions::new().write(true).open(again).and_then(|mut file| file.write_all(b"overwritten"));
    assert_own_runtime_is(&mut bundle, &before);
    let error = attempt.unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::ReadOnlyFilesystem | ErrorKind::PermissionDenied), "{error}");
}

/// Whoever upgrades a host whose programs are on a read-only mount makes that writable.
#[test]
fn cve_2019_5736_a_read_only_mount_of_the_hosts_is_no_seal() {
    let mut bundle = bundle!();
    let place = bundle.scratch().join("usr");
    fs::create_dir(&place).unwrap();
    mount(Some("tmpfs"), &place, Some("tmpfs"), MsFlags::empty(), None::<&str>).unwrap();
    let copy = place.join("corten");
    fs::copy(bundle.copy_of_runtime(), &copy).unwrap();
    let before = fs::read(&copy).unwrap();
    let remount = |flags: MsFlags| {
        mount(None::<&str>, &place, None::<&str>, MsFlags::MS_REMOUNT | flags, None::<&str>).unwrap();
    };
    remount(MsFlags::MS_RDONLY);
    bundle.runtime = copy.clone();
    bundle.args(&["/bin/true"]).create().ok();
    let exe = fs::File::open(format!("/proc/{}/exe", bundle.pid())).unwrap();
    remount(MsFlags::empty());
    bundle.verb("delete", &["--force"]).ok();
    let again = format!("/proc/self/fd/{}", exe.as_raw_fd());
    let attempt =
        fs::OpenOptions::new().write(true).open(again).and_then(|mut file| file.write_all(b"overwritten"));
    bundle.runtime = runtime();
    let after = fs::read(&copy).unwrap();
    drop(exe);
    umount2(&place, MntFlags::MNT_DETACH).unwrap();
    assert_eq!(attempt.unwrap_err().kind(), ErrorKind::ReadOnlyFilesystem);
    assert!(after == before, "the runtime was overwritten");
}

/// Docker gives every container a profile where the host has AppArmor.
#[test]
fn an_apparmor_profile_confines_the_first_process_and_guests() {
    let enabled = fs::read("/sys/module/apparmor/parameters/enabled").is_ok_and(|text| text == b"Y\n");
    if !enabled {
        skip!("AppArmor is not enabled on this host");
    }
    let mut bundle = bundle!();
    let rules =
        format!("profile {} flags=(attach_disconnected) {{ file, signal, ptrace, capability, }}", bundle.id);
    let file = bundle.scratch().join("profile");
    fs::write(&file, rules).unwrap();
    Call::new("apparmor_parser", &bundle.scratch()).arg("--replace").arg(&file).output().ok();
    let profile = bundle.id.clone();
    bundle.set("/process/apparmorProfile", json!(profile));
    bundle.shell("cat /proc/self/attr/current; exec sleep 1000");
    bundle.create().ok();
    bundle.start().ok();
    let confined = fs::read_to_string(format!("/proc/{}/attr/current", bundle.pid())).unwrap();
    let guest = bundle.exec(&["cat", "/proc/self/attr/current"]).ok().stdout();
    bundle.verb("delete", &["--force"]).ok();
    Call::new("apparmor_parser", &bundle.scratch()).arg("--remove").arg(&file).output().ok();
    assert_eq!((confined, guest), (format!("{profile} (enforce)\n"), format!("{profile} (enforce)\n")));
}
