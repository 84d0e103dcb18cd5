//! Mount options: each word of the specification, read back from the mount that it made.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};

use nix::mount::{MsFlags, mount};
use serde_json::{Value, json};

use crate::bundle::{bundle, skip};
use crate::mounts::{Mounted, has, mount_at, tree};

fn tmpfs(options: &[&str]) -> Value {
    json!({"destination": "/mnt", "type": "tmpfs", "source": "tmpfs", "options": options})
}

#[test]
fn mount_options_become_flags_of_the_mount() {
    // Options; words that the mount must have and words that it must not have.
    let table: [(&[&str], &[&str], &[&str]); 17] = [
        (&["defaults"], &["rw", "relatime"], &["nosuid", "nodev", "noexec"]),
        (&["ro"], &["ro"], &["rw"]),
        (&["ro", "rw"], &["rw"], &["ro"]),
        (&["nosuid", "nodev", "noexec"], &["nosuid", "nodev", "noexec"], &[]),
        (&["nosuid", "suid"], &[], &["nosuid"]),
        (&["nodev", "dev"], &[], &["nodev"]),
        (&["noexec", "exec"], &[], &["noexec"]),
        (&["noatime"], &["noatime"], &["relatime"]),
        (&["noatime", "atime"], &["relatime"], &["noatime"]),
        (&["relatime"], &["relatime"], &[]),
        (&["strictatime"], &[], &["relatime", "noatime"]),
        (&["nodiratime"], &["nodiratime"], &[]),
        (&["nodiratime", "diratime"], &[], &["nodiratime"]),
        (&["nosymfollow"], &["nosymfollow"], &[]),
        (&["nosymfollow", "symfollow"], &[], &["nosymfollow"]),
        (&["norelatime"], &[], &["noatime"]),
        (&["nostrictatime"], &["relatime"], &[]),
    ];
    let mut bundle = bundle!();
    for (number, (options, ..)) in table.iter().enumerate() {
        let mut mount = tmpfs(options);
        mount["destination"] = json!(format!("/mnt/{number}"));
        bundle.mount(mount);
    }
    let report = bundle.report();
    for (number, (options, present, absent)) in table.iter().enumerate() {
        let flags = &mount_at(&report, &format!("/mnt/{number}"))["options"];
        for word in *present {
            assert!(has(flags, word), "{options:?} gave {flags}, without {word}");
        }
        for word in *absent {
            assert!(!has(flags, word), "{options:?} gave {flags}, with {word}");
        }
    }
}

#[test]
fn mount_options_become_flags_of_the_file_system() {
    let table: [(&[&str], &[&str], &[&str]); 8] = [
        (&["sync"], &["sync"], &[]),
        (&["sync", "async"], &[], &["sync"]),
        (&["dirsync"], &["dirsync"], &[]),
        (&["lazytime"], &["lazytime"], &[]),
        (&["lazytime", "nolazytime"], &[], &["lazytime"]),
        (&["size=64k", "mode=1711"], &["size=64k", "mode=1711"], &[]),
        (&["silent", "loud"], &["rw"], &[]),
        (&["noiversion"], &["rw"], &[]),
    ];
    let mut bundle = bundle!();
    for (number, (options, ..)) in table.iter().enumerate() {
        let mut mount = tmpfs(options);
        mount["destination"] = json!(format!("/mnt/{number}"));
        bundle.mount(mount);
    }
    let report = bundle.report();
    for (number, (options, present, absent)) in table.iter().enumerate() {
        let flags = &mount_at(&report, &format!("/mnt/{number}"))["super"];
        for word in *present {
            assert!(has(flags, word), "{options:?} gave {flags}, without {word}");
        }
        for word in *absent {
            assert!(!has(flags, word), "{options:?} gave {flags}, with {word}");
        }
    }
}

#[test]
fn propagation_options_are_applied_to_the_mount() {
    let table = [
        ("private", ""),
        ("rprivate", ""),
        ("shared", "shared"),
        ("rshared", "shared"),
        ("slave", ""),
        ("rslave", ""),
        ("unbindable", "unbindable"),
        ("runbindable", "unbindable"),
    ];
    for (option, tag) in table {
        let mut bundle = bundle!();
        bundle.mount(tmpfs(&[option]));
        let report = bundle.report();
        let tags = &mount_at(&report, "/mnt")["propagation"];
        assert_eq!(has(tags, tag), !tag.is_empty(), "{option} gave {tags}");
    }
}

#[test]
fn a_slave_receives_what_is_mounted_on_the_host_and_a_private_mount_does_not() {
    let mut bundle = bundle!();
    let source = bundle.scratch().join("source");
    let _source = Mounted::tmpfs(&source, MsFlags::empty());
    mount(None::<&str>, &source, None::<&str>, MsFlags::MS_SHARED, None::<&str>).unwrap();
    fs::create_dir(source.join("later")).unwrap();
    for (target, option) in [("/slave", "rslave"), ("/private", "rprivate")] {
        bundle.mount(json!({"destination": target, "source": source, "options": ["rbind", option]}));
    }
    bundle.running();
    let _later = Mounted::tmpfs(&source.join("later"), MsFlags::empty());
    fs::write(source.join("later/file"), "").unwrap();
    let listing = |path| bundle.exec(&["/witness", "list", path]).ok().json();
    assert_eq!(listing("/slave/later"), json!(["file"]));
    assert_eq!(listing("/private/later"), json!([]));
}

#[test]
fn flags_of_a_bind_mount_hold_for_its_top_and_recursive_ones_for_the_tree() {
    let table = [
        ("ro", "rro", "rrw"),
        ("nosuid", "rnosuid", "rsuid"),
        ("nodev", "rnodev", "rdev"),
        ("noexec", "rnoexec", "rexec"),
        ("nodiratime", "rnodiratime", "rdiratime"),
        ("noatime", "rnoatime", "ratime"),
        ("nosymfollow", "rnosymfollow", "rsymfollow"),
    ];
    let mut bundle = bundle!();
    let (source, _below) = tree(&bundle);
    for (top, whole, cleared) in table {
        for (kind, options) in [("top", vec![top]), ("whole", vec![whole]), ("cleared", vec![whole, cleared])]
        {
            let options = [vec!["rbind"], options].concat();
            let target = format!("/{kind}/{top}");
            bundle.mount(json!({"destination": target, "source": source, "options": options}));
        }
    }
    let report = bundle.report();
    for (top, ..) in table {
        let flag = |path: &str| has(&mount_at(&report, path)["options"], top);
        assert!(flag(&format!("/top/{top}")), "{top}");
        assert!(!flag(&format!("/top/{top}/below")), "{top} reaches below");
        assert!(flag(&format!("/whole/{top}")), "recursive {top}");
        assert!(flag(&format!("/whole/{top}/below")), "recursive {top} stays at the top");
        assert!(!flag(&format!("/cleared/{top}")), "cleared {top}");
        assert!(!flag(&format!("/cleared/{top}/below")), "cleared {top}");
    }
}

#[test]
fn recursive_access_times_are_one_setting() {
    let table = [
        ("rstrictatime", None),
        ("rrelatime", Some("relatime")),
        ("rnoatime", Some("noatime")),
        ("rnostrictatime", None),
    ];
    let mut bundle = bundle!();
    let (source, _below) = tree(&bundle);
    for (option, _) in table {
        bundle.mount(
            json!({"destination": format!("/{option}"), "source": source, "options": ["rbind", option]}),
        );
    }
    let report = bundle.report();
    for (option, flag) in table {
        for path in [format!("/{option}"), format!("/{option}/below")] {
            let flags = &mount_at(&report, &path)["options"];
            if let Some(flag) = flag {
                assert!(has(flags, flag), "{option}: {flags}");
            }
            if option == "rstrictatime" {
                assert!(!has(flags, "relatime") && !has(flags, "noatime"), "{option}: {flags}");
            }
        }
    }
}

#[test]
fn a_bind_mount_keeps_the_flags_that_nobody_asked_to_change() {
    let mut bundle = bundle!();
    let source = bundle.scratch().join("source");
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    let _source = Mounted::tmpfs(&source, flags);
    bundle.mount(json!({"destination": "/kept", "source": source, "options": ["bind", "ro"]}));
    bundle.mount(json!({"destination": "/cleared", "source": source, "options": ["bind", "exec"]}));
    let report = bundle.report();
    let kept = &mount_at(&report, "/kept")["options"];
    for word in ["ro", "nosuid", "nodev", "noexec"] {
        assert!(has(kept, word), "{kept} without {word}");
    }
    let cleared = &mount_at(&report, "/cleared")["options"];
    assert!(has(cleared, "nosuid") && !has(cleared, "noexec"), "{cleared}");
}

#[test]
fn a_remount_changes_the_mount_that_is_there() {
    let mut bundle = bundle!();
    bundle.mount(tmpfs(&["size=64k"]));
    bundle.mount(json!({"destination": "/mnt", "type": "tmpfs", "source": "tmpfs", "options": ["remount", "ro", "nodev"]}));
    let report = bundle.report();
    let flags = &mount_at(&report, "/mnt")["options"];
    assert!(has(flags, "nodev"), "{flags}");
    let count = report["mounts"].as_array().unwrap().iter().filter(|mount| mount["target"] == "/mnt").count();
    assert_eq!(count, 1);
}

#[test]
fn tmpcopyup_fills_the_tmpfs_with_what_it_covers() {
    let mut bundle = bundle!();
    let etc = bundle.rootfs().join("etc");
    fs::create_dir(etc.join("deep")).unwrap();
    fs::write(etc.join("deep/file"), "deep").unwrap();
    fs::set_permissions(etc.join("deep/file"), fs::Permissions::from_mode(0o604)).unwrap();
    std::os::unix::fs::chown(etc.join("deep/file"), Some(1000), Some(1001)).unwrap();
    symlink("deep/file", etc.join("link")).unwrap();
    fs::set_permissions(&etc, fs::Permissions::from_mode(0o751)).unwrap();
    bundle.mount(json!({"destination": "/etc", "type": "tmpfs", "source": "tmpfs", "options": ["tmpcopyup", "mode=715"]}));
    bundle.shell(
        "echo more >> /etc/group; cat /etc/deep/file; echo; readlink /etc/link; /witness stat /etc/deep/file; \
         stat -c %a /etc",
    );
    let output = bundle.run().ok().stdout();
    let lines: Vec<&str> = output.lines().collect();
    assert_eq!(lines[..2], ["deep", "deep/file"]);
    let stat: Value = serde_json::from_str(lines[2]).unwrap();
    assert_eq!((&stat["mode"], &stat["uid"], &stat["gid"]), (&json!("0604"), &json!(1000), &json!(1001)));
    assert_eq!(lines[3], "715", "what is asked for, and not what the image has");
    assert!(!fs::read_to_string(etc.join("group")).unwrap().contains("more"), "the image stays as it was");
}
