//! Published faults of runtimes and engines, one test each, named by its number: what `security.rs` has not, and needs no
//! race (`races.rs`). Each attacks with a bundle beside a canary; the host's mounts and the runtime's file are as before.

use std::fs;
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use serde_json::json;

use crate::bundle::{Bundle, bundle, skip};
use crate::call::{Call, Output};
use crate::security::Canary;
use crate::traces::hierarchies;

/// A bundle with a runtime of its own, beside a canary.
pub struct Attack {
    pub bundle: Bundle,
    pub canary: Canary,
    runtime: Vec<u8>,
}

impl Attack {
    pub fn new(mut bundle: Bundle) -> Attack {
        bundle.runtime = bundle.copy_of_runtime();
        let runtime = fs::read(&bundle.runtime).unwrap();
        let canary = Canary::new(&bundle);
        Attack { bundle, canary, runtime }
    }

    /// Takes everything that is mounted out of the configuration, but for procfs.
    pub fn only_proc_mounted(&mut self) -> &mut Bundle {
        self.bundle.config["mounts"].as_array_mut().unwrap().retain(|mount| mount["destination"] == "/proc");
        &mut self.bundle
    }

    /// An image that brings a `/dev` along, in which nothing is made that a link would be in the way of. `null` and
    /// `console` lead to the host, as the standard streams do.
    pub fn brings_dev(&mut self) {
        let dev = self.bundle.scratch().join("dev");
        fs::create_dir_all(dev.join("pts")).unwrap();
        for name in ["null", "stdin", "stdout", "stderr"] {
            symlink(self.canary.file(), dev.join(name)).unwrap();
        }
        symlink(self.canary.directory().join("new"), dev.join("console")).unwrap();
        let bundle = self.only_proc_mounted();
        bundle.mount(json!({"destination": "/dev", "source": dev, "options": ["bind"]}));
        bundle.mount(json!({"destination": "/dev/pts", "type": "devpts", "source": "devpts",
            "options": ["newinstance", "ptmxmode=0666", "mode=0620"]}));
    }

    /// As far as the console, with somebody there to take it.
    pub fn create_with_terminal(&mut self) -> Output {
        let socket = self.bundle.scratch().join("console.sock");
        let _listener = UnixListener::bind(&socket).unwrap();
        self.bundle.set("/process/terminal", json!(true));
        self.bundle.birth("create", &["--console-socket", socket.to_str().unwrap()]).output()
    }

    /// Whatever became of the attack, it did no harm.
    #[track_caller]
    pub fn assert_harmless(&self) {
        self.canary.assert_untouched();
        let mounts = self.bundle.traces().mounts;
        assert!(mounts.is_empty(), "mounts of the host: {mounts:?}");
        assert!(fs::read(&self.bundle.runtime).unwrap() == self.runtime, "the runtime's own file changed");
    }
}

/// An attack by a bundle, or the end of a test that only root can make.
macro_rules! attack {
    () => {
        Attack::new(bundle!())
    };
}

#[test]
fn cve_2015_3627_streams_of_the_image_lead_nowhere() {
    let mut attack = attack!();
    attack.brings_dev();
    attack.bundle.args(&["/witness", "fd-list"]);
    let open = attack.bundle.run().ok().json();
    let numbers: Vec<&String> = open.as_object().unwrap().keys().collect();
    assert_eq!(numbers, ["0", "1", "2"], "{open}");
    assert!(!open.to_string().contains("canary"), "{open}");
    // With a terminal, whose console would be bound on the link.
    attack.create_with_terminal();
    attack.bundle.verb("delete", &["--force"]).ok();
    attack.assert_harmless();
}

#[test]
fn cve_2016_3697_a_number_is_a_user_and_never_the_name_of_one() {
    let mut bundle = bundle!();
    fs::write(bundle.rootfs().join("etc/passwd"), "1000:x:0:0::/root:/bin/sh\nroot:x:0:0::/:/bin/sh\n")
        .unwrap();
    fs::write(bundle.rootfs().join("etc/group"), "1000:x:0:\n").unwrap();
    bundle.set("/process/user", json!({"uid": 1000, "gid": 1000}));
    let report = bundle.report();
    assert_eq!((&report["uids"], &report["gids"]), (&json!([1000, 1000, 1000]), &json!([1000, 1000, 1000])));
    bundle.delete();
    bundle.set("/process/user", json!({"uid": 0, "gid": 0}));
    bundle.running();
    let inside =
        bundle.call(["exec", "--user", "1000", &bundle.id, "/witness", "report"]).output().ok().json();
    assert_eq!(inside["uids"], json!([1000, 1000, 1000]));
}

#[test]
fn cve_2016_8867_a_user_gets_no_ambient_capabilities_from_the_bounding_set() {
    let mut bundle = bundle!();
    bundle.set("/process/user", json!({"uid": 1000, "gid": 1000}));
    bundle.set("/process/capabilities", json!({"bounding": ["CAP_CHOWN", "CAP_NET_RAW"]}));
    let capabilities = &bundle.report()["capabilities"];
    for set in ["ambient", "effective", "permitted", "inheritable"] {
        assert_eq!(capabilities[set], json!([]), "{set}: {capabilities}");
    }
}

#[test]
fn cve_2022_24769_no_capability_is_inheritable_unless_asked_for() {
    let mut bundle = bundle!();
    bundle.unset("/process/capabilities", "inheritable");
    assert_eq!(bundle.report()["capabilities"]["inheritable"], json!([]));
}

/// runc, crun and youki have each had this fault of exec.
#[test]
fn cve_2022_29162_cve_2022_27650_cve_2025_27612_exec_gives_no_inheritable_capabilities() {
    let mut bundle = bundle!();
    let all = ["CAP_KILL", "CAP_AUDIT_WRITE"];
    for set in ["bounding", "effective", "permitted", "inheritable"] {
        bundle.set(&format!("/process/capabilities/{set}"), json!(all));
    }
    bundle.running();
    for options in
        [&["exec"][..], &["exec", "--cap", "CAP_KILL"], &["exec", "--user", "1000", "--cap", "CAP_KILL"]]
    {
        let call = bundle.call(options).arg(&bundle.id).args(["/witness", "report"]);
        let capabilities = &call.output().ok().json()["capabilities"];
        assert_eq!(capabilities["inheritable"], json!([]), "{options:?}");
        assert_eq!(capabilities["ambient"], json!([]), "{options:?}");
    }
}

#[test]
fn cve_2026_30892_exec_takes_no_text_for_user_0() {
    let mut bundle = bundle!();
    bundle.running();
    for (user, uid, gid) in [("1", 1, 0), ("1:2", 1, 2)] {
        let call = bundle.call(["exec", "-u", user, &bundle.id, "/witness", "report"]);
        let report = call.output().ok().json();
        assert_eq!((&report["uid"], &report["gid"]), (&json!(uid), &json!(gid)), "{user}");
    }
    for user in ["abc", ":5", "4294967295", "-1", "1:x", "4294967296", "1x", ""] {
        let output = bundle.call(["exec", "-u", user, &bundle.id, "/bin/true"]).output();
        assert_ne!(output.code(), 0, "{user:?}: {output}");
    }
}

#[test]
fn cve_2024_40635_an_id_beyond_the_last_one_is_not_user_0() {
    let mut bundle = bundle!();
    for id in [4_294_967_295_i64, 4_294_967_296, 1 << 32 | 1000, -1] {
        for member in ["uid", "gid"] {
            bundle.set("/process/user", json!({"uid": 0, "gid": 0}));
            bundle.set(&format!("/process/user/{member}"), json!(id));
            bundle.run().refused(1, &["process.user", member]);
        }
    }
    bundle.assert_nothing_left("the refusals");
}

#[test]
fn ghsa_g54h_m393_cpwq_without_rules_no_disk_can_be_opened() {
    let mut bundle = bundle!();
    bundle.unset("/linux", "resources").privileged().set("/root/readonly", json!(false));
    // A disk, and the kernel's log.
    bundle.shell(
        "for d in 'b 8 0' 'c 1 11'; do /witness mknod /tmp/node $d >/dev/null; /witness open /tmp/node; rm -f /tmp/node; done",
    );
    let output = bundle.run().ok().stdout();
    // Refused at the latest when opened: ENXIO would tell that only the disk is missing.
    let refused = |line: &str| ["EPERM", "ENOENT", "EACCES"].contains(&line);
    assert!(output.lines().count() == 2 && output.lines().all(refused), "{output}");
}

#[test]
fn cve_2019_19921_cve_2023_27561_proc_and_sys_do_not_lead_into_a_volume() {
    for name in ["proc", "sys"] {
        let mut attack = attack!();
        let volume = attack.bundle.scratch().join("volume");
        fs::create_dir_all(volume.join("self/attr")).unwrap();
        fs::create_dir_all(volume.join("sys/kernel")).unwrap();
        symlink(attack.canary.file(), volume.join("self/attr/exec")).unwrap();
        fs::remove_dir(attack.bundle.rootfs().join(name)).unwrap();
        symlink("/volume", attack.bundle.rootfs().join(name)).unwrap();
        let mounts = attack.bundle.config["mounts"].as_array_mut().unwrap();
        mounts.insert(0, json!({"destination": "/volume", "source": volume, "options": ["bind"]}));
        attack.bundle.args(&["/bin/true"]);
        attack.bundle.run().refused(1, &[name]);
        attack.assert_harmless();
        attack.bundle.assert_nothing_left(name);
    }
}

#[test]
fn cve_2023_28642_a_proc_that_is_a_link_does_not_take_the_label_away() {
    let enabled = fs::read("/sys/module/apparmor/parameters/enabled").is_ok_and(|text| text == b"Y\n");
    if !enabled {
        skip!("AppArmor is not enabled on this host");
    }
    let mut attack = attack!();
    let fake = attack.bundle.rootfs().join("fake/self/attr/apparmor");
    fs::create_dir_all(&fake).unwrap();
    fs::write(fake.join("exec"), "").unwrap();
    fs::remove_dir(attack.bundle.rootfs().join("proc")).unwrap();
    symlink("fake", attack.bundle.rootfs().join("proc")).unwrap();
    attack.bundle.set("/process/apparmorProfile", json!("unconfined")).args(&["/bin/true"]);
    attack.bundle.run().refused(1, &["proc"]);
    assert_eq!(fs::read_to_string(fake.join("exec")).unwrap(), "", "the label went into the image");
    attack.assert_harmless();
}

/// The links of youki's advisory: to the root itself and to a sibling.
#[test]
fn cve_2025_54867_a_proc_or_sys_that_is_a_link_is_refused() {
    for (name, target) in
        [("proc", ".."), ("sys", ".."), ("proc", "etc"), ("sys", "/"), ("proc", "/etc/../tmp")]
    {
        let mut attack = attack!();
        fs::remove_dir(attack.bundle.rootfs().join(name)).unwrap();
        symlink(target, attack.bundle.rootfs().join(name)).unwrap();
        attack.bundle.args(&["/bin/true"]);
        attack.bundle.run().refused(1, &[name]);
        attack.assert_harmless();
    }
}

#[test]
fn cve_2020_15257_the_runtime_listens_on_no_abstract_socket() {
    let mut bundle = bundle!();
    bundle.drop_namespace("network").args(&["/bin/sleep", "60"]);
    // A user cannot have a sysfs of a network that is not its own.
    bundle.config["mounts"]
        .as_array_mut()
        .unwrap()
        .retain(|mount| mount["type"] != "sysfs" && mount["type"] != "cgroup");
    let create = bundle.birth("create", &[]);
    let script = "\"$@\" && cat /proc/net/unix";
    if !nix::unistd::geteuid().is_root() {
        skip!("needs a network namespace of the runtime's own");
    }
    let call = Call::new("unshare", &bundle.scratch()).args(["--net", "sh", "-c", script, "sh"]);
    let table = call.arg(create.command.get_program()).args(create.command.get_args()).output().ok().stdout();
    assert!(table.starts_with("Num"), "{table}");
    let listening: Vec<&str> = table.lines().filter(|line| line.contains('@')).collect();
    assert!(listening.is_empty(), "{listening:?}");
}

#[test]
fn runc_1_5_2_exec_goes_to_no_group_outside_of_the_containers() {
    let mut bundle = bundle!();
    bundle.running();
    let sibling = format!("../{}-sibling", bundle.id);
    for group in [sibling.as_str(), "..", "../..", "/../../"] {
        let output = bundle.call(["exec", "--cgroup", group, &bundle.id, "/bin/true"]).output();
        assert_ne!(output.code(), 0, "{group}: {output}");
    }
    for hierarchy in hierarchies() {
        assert!(!hierarchy.join(format!("{}-sibling", bundle.id)).exists());
    }
}

#[test]
fn cve_2025_24965_nothing_is_written_into_the_image_for_a_handler() {
    let mut attack = attack!();
    symlink(attack.canary.file(), attack.bundle.rootfs().join(".krun_config.json")).unwrap();
    symlink(attack.canary.directory().join("new"), attack.bundle.rootfs().join(".krun_vm.json")).unwrap();
    attack.bundle.set("/annotations", json!({"run.oci.handler": "krun"})).args(&["/bin/true"]);
    attack.bundle.run();
    attack.assert_harmless();
}

#[test]
fn cve_2024_5154_an_mtab_that_is_a_link_is_no_way_out() {
    for to in ["the file", "a new file", "a relative way"] {
        let mut attack = attack!();
        let link = attack.bundle.rootfs().join("etc/mtab");
        let (file, new) = (attack.canary.file(), attack.canary.directory().join("new"));
        let target = match to {
            "the file" => file,
            "a new file" => new,
            _ => PathBuf::from("../".repeat(30)).join(new.strip_prefix("/").unwrap()),
        };
        symlink(target, &link).unwrap();
        attack.bundle.args(&["/bin/true"]);
        for option in ["copy-symlink", "nosuid"] {
            let mount =
                json!({"destination": "/etc/mtab", "source": "/proc/mounts", "options": ["bind", option]});
            attack.bundle.mount(mount);
            attack.bundle.run();
            attack.assert_harmless();
            attack.bundle.config["mounts"].as_array_mut().unwrap().pop();
        }
    }
}

/// The runtime makes mounts read-only late; an image that brings its own `/proc` must not choose which.
#[test]
fn cve_2026_115521_a_proc_of_the_image_does_not_choose_what_becomes_read_only() {
    let mut attack = attack!();
    let fd = attack.bundle.rootfs().join("proc/self/fd");
    fs::create_dir_all(&fd).unwrap();
    for number in 0..32 {
        symlink(attack.canary.directory(), fd.join(number.to_string())).unwrap();
    }
    attack.bundle.set(
        "/mounts",
        json!([
            {"destination": "/mnt", "type": "tmpfs", "source": "tmpfs", "options": ["ro"]},
            {"destination": "/tmp/below", "type": "tmpfs", "source": "tmpfs", "options": ["ro"]},
        ]),
    );
    attack.bundle.set("/linux/readonlyPaths", json!(["/etc"])).set("/linux/maskedPaths", json!(["/root"]));
    attack.bundle.set("/root/readonly", json!(false));
    attack
        .bundle
        .shell("for d in /mnt /tmp/below /etc; do /witness create $d/new; done; /witness create /bin/new");
    let output = attack.bundle.run().ok().stdout();
    assert_eq!(output, "EROFS\nEROFS\nEROFS\nok\n");
    attack.assert_harmless();
    fs::write(attack.canary.file(), "the host's").expect("the canary is writable still");
}

#[test]
fn cve_2022_0492_no_release_agent_can_be_written() {
    let mut bundle = bundle!();
    let mounts = bundle.config["mounts"].as_array_mut().unwrap();
    let cgroup = mounts.iter_mut().find(|mount| mount["type"] == "cgroup").unwrap();
    assert!(cgroup["options"].as_array().unwrap().contains(&json!("ro")), "as engines ask: {cgroup}");
    bundle.shell(
        "for f in $(find /sys/fs/cgroup -name release_agent -o -name notify_on_release -o -name cgroup.procs 2>/dev/null); do \
         /witness write $f 0; done; echo end",
    );
    if !bundle.rootfs().join("bin/find").exists() {
        symlink("busybox", bundle.rootfs().join("bin/find")).unwrap();
    }
    let output = bundle.run().ok().stdout();
    // A group of the host's may have ended since it was listed.
    let answers = output.lines().filter(|line| !["ENOENT", "ENODEV", "end"].contains(line));
    let answers: Vec<&str> = answers.collect();
    let refused = |line: &&str| ["EROFS", "EACCES", "EPERM"].contains(line);
    assert!(!answers.is_empty() && answers.iter().all(refused), "{output}");
}

#[test]
fn cve_2025_23266_a_hook_never_gets_the_environment_of_the_container() {
    let mut bundle = bundle!();
    let seen = bundle.scratch().join("seen");
    bundle.set("/process/env", json!(["LD_PRELOAD=/image/evil.so", "PATH=/bin", "BASH_ENV=/image/evil"]));
    let command = format!("env >> {}", seen.display());
    for kind in ["prestart", "createRuntime", "createContainer", "poststart", "poststop"] {
        let hook = json!([{"path": "/bin/sh", "args": ["sh", "-c", command], "env": ["PATH=/usr/bin:/bin"]}]);
        bundle.set(&format!("/hooks/{kind}"), hook);
    }
    bundle.args(&["/bin/true"]).run().ok();
    let text = fs::read_to_string(&seen).unwrap();
    assert!(text.lines().filter(|line| *line == "PATH=/usr/bin:/bin").count() >= 5, "{text}");
    assert!(!text.contains("evil"), "{text}");
}

#[test]
fn the_environment_of_the_runtime_is_neither_obeyed_nor_handed_on() {
    let mut bundle = bundle!();
    bundle.shell("env");
    let call = bundle.birth("run", &[]);
    let call =
        call.env("LD_PRELOAD", "/no/such.so").env("LD_LIBRARY_PATH", "/no").env("RUST_BACKTRACE", "full");
    let output = call.env("_LIBCONTAINER_INITPIPE", "3").output().ok();
    assert_eq!(output.stderr, "");
    for name in ["LD_", "RUST_", "_LIBCONTAINER"] {
        assert!(!output.stdout().contains(name), "{output}");
    }
}

/// A destination is a name in the container's root, whatever it is made of.
#[test]
fn odd_destinations_stay_inside_or_are_refused() {
    let long = format!("/{}", "x/".repeat(2500));
    let name = format!("/{}", "x".repeat(300));
    let out = format!("/corten-test-odd-{}", std::process::id());
    let up = format!("/../../../../../../tmp/../..{out}");
    for destination in [
        "/a]:b",
        "/a\nb",
        "/a b\\040c",
        &up,
        "relative/way",
        "/etc/./../../y",
        "//z//",
        &long,
        &name,
        "/%s%n",
        "/\u{202e}",
    ] {
        let mut attack = attack!();
        attack.bundle.mount(json!({"destination": destination, "type": "tmpfs", "source": "tmpfs"}));
        attack.bundle.args(&["/bin/echo", "ran"]);
        let output = attack.bundle.run();
        if output.code() == 0 {
            assert_eq!(output.stdout(), "ran\n", "{destination:?}");
        } else {
            output.refused(1, &[]);
        }
        attack.assert_harmless();
        assert!(!Path::new(&out).exists(), "{destination:?} is on the host");
        attack.bundle.assert_nothing_left(destination);
    }
}

#[test]
fn every_test_that_the_documents_name_exists() {
    let top = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    if !top.join("docs").exists() {
        skip!("the sources are not here");
    }
    let mut sources = String::new();
    for directory in ["integration", "src/plan", "src/plan/checkpoint", "src/plan/systemd", "src/cli"] {
        for entry in
            fs::read_dir(top.join(directory)).unwrap().flatten().filter(|entry| entry.path().is_file())
        {
            let text = fs::read_to_string(entry.path()).unwrap();
            text.lines().for_each(|line| sources.extend([line.trim_start(), "\n"]));
        }
    }
    let text = fs::read_to_string(top.join("docs/security.md")).unwrap();
    let words = text.split('`').skip(1).step_by(2);
    let plain = |word: &&str| {
        word.chars().all(|letter| letter.is_ascii_lowercase() || letter.is_ascii_digit() || letter == '_')
    };
    let named: Vec<&str> = words.filter(plain).filter(|word| word.matches('_').count() >= 4).collect();
    assert!(named.len() > 40, "{named:?}");
    for test in named {
        assert!(
            sources.contains(&format!("#[test]\nfn {test}()")),
            "docs/security.md names {test}, which is no test"
        );
    }
}
