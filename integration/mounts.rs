//! Mounts: targets made inside the root, kinds of file systems, mapped owners, the root itself.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use serde_json::{Value, json};

use crate::bundle::{Bundle, bundle, skip};
use crate::namespaces::map_users;

/// A mount that a test makes on the host, gone with the guard. Declared after the bundle, it goes before it.
pub struct Mounted(PathBuf);

impl Mounted {
    pub fn tmpfs(target: &Path, flags: MsFlags) -> Mounted {
        fs::create_dir_all(target).expect("make a mount point");
        mount(Some("tmpfs"), target, Some("tmpfs"), flags, None::<&str>).expect("mount a tmpfs");
        Mounted(target.to_path_buf())
    }

    /// Takes charge of what something else mounted.
    pub fn adopt(target: &Path) -> Mounted {
        Mounted(target.to_path_buf())
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        // A second failure would hide the first.
        let _ = umount2(&self.0, MntFlags::MNT_DETACH);
    }
}

/// The uppermost mount at a place, as the witness sees it.
#[track_caller]
pub fn mount_at<'a>(report: &'a Value, target: &str) -> &'a Value {
    let mounts = report["mounts"].as_array().expect("mounts");
    let found = mounts.iter().rev().find(|mount| mount["target"] == target);
    found.unwrap_or_else(|| panic!("nothing is mounted on {target}: {mounts:#?}"))
}

pub fn has(list: &Value, word: &str) -> bool {
    list.as_array().is_some_and(|list| list.iter().any(|item| item == word))
}

/// A directory with a tmpfs mounted below it, for what bind and rbind make of it.
pub fn tree(bundle: &Bundle) -> (PathBuf, Mounted) {
    let source = bundle.scratch().join("tree");
    let below = Mounted::tmpfs(&source.join("below"), MsFlags::empty());
    fs::write(source.join("below/file"), "").unwrap();
    (source, below)
}

#[test]
fn bind_takes_one_mount_and_rbind_the_tree() {
    let mut bundle = bundle!();
    let (source, _below) = tree(&bundle);
    bundle.mount(json!({"destination": "/one", "source": source, "options": ["bind"]}));
    bundle.mount(json!({"destination": "/all", "source": source, "options": ["rbind"]}));
    bundle.shell("ls /one/below; echo --; ls /all/below");
    assert_eq!(bundle.run().ok().stdout(), "--\nfile\n");
}

#[test]
fn a_bind_mount_needs_no_type_and_ignores_it() {
    for kind in [None, Some("none"), Some("bind"), Some("tmpfs")] {
        let mut bundle = bundle!();
        let mut entry =
            json!({"destination": "/mnt", "source": bundle.rootfs().join("etc"), "options": ["bind"]});
        if let Some(kind) = kind {
            entry["type"] = json!(kind);
        }
        bundle.mount(entry).args(&["/bin/cat", "/mnt/group"]);
        assert!(bundle.run().ok().stdout().starts_with("root:"), "{kind:?}");
    }
}

#[test]
fn a_bind_mount_of_type_bind_needs_no_option() {
    let mut bundle = bundle!();
    let source = bundle.rootfs().join("etc");
    bundle.mount(json!({"destination": "/mnt", "type": "bind", "source": source, "options": ["bind", "ro"]}));
    bundle.shell("/witness open /mnt/group; /witness create /mnt/new");
    assert_eq!(bundle.run().ok().stdout(), "ok\nEROFS\n");
}

#[test]
fn a_missing_target_is_made_as_a_directory_or_as_a_file() {
    let mut bundle = bundle!();
    let file = bundle.scratch().join("file");
    fs::write(&file, "a file\n").unwrap();
    bundle.mount(json!({"destination": "/a/b/c", "type": "tmpfs", "source": "tmpfs"}));
    bundle.mount(json!({"destination": "/d/e/file", "source": file, "options": ["bind"]}));
    bundle.args(&["/bin/cat", "/d/e/file"]);
    assert_eq!(bundle.run().ok().stdout(), "a file\n");
    assert!(bundle.rootfs().join("a/b/c").is_dir());
    assert!(bundle.rootfs().join("d/e/file").is_file());
    assert_eq!(fs::metadata(bundle.rootfs().join("a")).unwrap().permissions().mode() & 0o777, 0o755);
}

#[test]
fn a_link_in_the_image_leads_to_a_target_inside_the_root() {
    let links = [("/escape", "absolute"), ("../../../../../escape", "upward"), ("etc/deep", "relative")];
    for (target, name) in links {
        let mut bundle = bundle!();
        let outside = bundle.scratch().join("outside");
        fs::create_dir(&outside).unwrap();
        let target = if name == "absolute" { outside.to_str().unwrap() } else { target };
        symlink(target, bundle.rootfs().join("link")).unwrap();
        bundle.mount(json!({"destination": "/link/below", "type": "tmpfs", "source": "tmpfs"}));
        bundle.args(&["/witness", "stat", "/link/below"]);
        assert_eq!(bundle.run().ok().json()["type"], "directory", "{name}");
        assert_eq!(fs::read_dir(&outside).unwrap().count(), 0, "{name} led outside");
        assert!(!Path::new("/escape").exists());
    }
}

#[test]
fn mounts_are_made_in_their_order() {
    let mut bundle = bundle!();
    for (destination, size) in [("/mnt", "size=64k"), ("/mnt/inner", "size=128k")] {
        bundle.mount(
            json!({"destination": destination, "type": "tmpfs", "source": "tmpfs", "options": [size]}),
        );
    }
    // The later one covers what stood at its place before.
    let file = bundle.scratch().join("file");
    fs::write(&file, "last\n").unwrap();
    bundle.mount(json!({"destination": "/etc/passwd", "source": bundle.rootfs().join("etc/group"), "options": ["bind"]}));
    bundle.mount(json!({"destination": "/etc/passwd", "source": file, "options": ["bind"]}));
    bundle.shell("cat /etc/passwd; /witness report");
    let output = bundle.run().ok().stdout();
    let (first, report) = output.split_once('\n').unwrap();
    assert_eq!(first, "last");
    let report: Value = serde_json::from_str(report).unwrap();
    assert!(has(&mount_at(&report, "/mnt/inner")["super"], "size=128k"));
}

#[test]
fn a_relative_destination_is_below_the_root() {
    let mut bundle = bundle!();
    bundle.mount(json!({"destination": "rel/ative", "type": "tmpfs", "source": "tmpfs"}));
    let report = bundle.report();
    assert_eq!(mount_at(&report, "/rel/ative")["type"], "tmpfs");
}

#[test]
fn a_relative_bind_source_is_below_the_bundle() {
    let mut bundle = bundle!();
    fs::create_dir(bundle.path().join("volume")).unwrap();
    fs::write(bundle.path().join("volume/file"), "from the bundle\n").unwrap();
    bundle.mount(json!({"destination": "/mnt", "source": "volume", "options": ["bind"]}));
    bundle.args(&["/bin/cat", "/mnt/file"]);
    assert_eq!(bundle.run().ok().stdout(), "from the bundle\n");
}

#[test]
fn the_default_file_systems_are_what_they_should_be() {
    let mut bundle = bundle!();
    let report = bundle.report();
    for (target, kind) in [
        ("/proc", "proc"),
        ("/dev", "tmpfs"),
        ("/dev/pts", "devpts"),
        ("/dev/shm", "tmpfs"),
        ("/dev/mqueue", "mqueue"),
        ("/sys", "sysfs"),
    ] {
        assert_eq!(mount_at(&report, target)["type"], kind, "{target}");
    }
    assert!(has(&mount_at(&report, "/sys")["options"], "ro"));
    let pts = &mount_at(&report, "/dev/pts")["super"];
    assert!(has(pts, "ptmxmode=666") && has(pts, "mode=620") && has(pts, "gid=5"), "{pts}");
}

#[test]
fn every_default_file_system_works_in_a_user_namespace() {
    let mut bundle = bundle!();
    map_users(&mut bundle);
    let report = bundle.report();
    for (target, kind) in
        [("/proc", "proc"), ("/dev/pts", "devpts"), ("/dev/mqueue", "mqueue"), ("/sys", "sysfs")]
    {
        assert_eq!(mount_at(&report, target)["type"], kind, "{target}");
    }
}

#[test]
fn sysfs_of_an_inherited_network_namespace_is_bound_in_a_user_namespace() {
    let mut bundle = bundle!();
    map_users(&mut bundle);
    bundle.drop_namespace("network");
    bundle.config["mounts"][5] = json!({"destination": "/sys", "type": "none", "source": "/sys", "options": ["rbind", "nosuid", "noexec", "nodev", "ro"]});
    bundle.config["mounts"].as_array_mut().unwrap().truncate(6);
    let report = bundle.report();
    assert_eq!(mount_at(&report, "/sys")["root"], "/");
}

#[test]
fn proc_takes_its_own_options() {
    let mut bundle = bundle!();
    bundle.config["mounts"][0]["options"] = json!(["nosuid", "noexec", "nodev", "hidepid=2"]);
    let report = bundle.report();
    let proc = mount_at(&report, "/proc");
    assert!(has(&proc["super"], "hidepid=invisible") || has(&proc["super"], "hidepid=2"), "{proc}");
    assert!(has(&proc["options"], "noexec"), "{proc}");
}

#[test]
fn an_overlay_joins_its_layers() {
    let mut bundle = bundle!();
    let layer = |name: &str| {
        let directory = bundle.scratch().join(name);
        fs::create_dir(&directory).unwrap();
        directory
    };
    let (lower, upper, work) = (layer("lower"), layer("upper"), layer("work"));
    fs::write(lower.join("low"), "low\n").unwrap();
    let options = [
        format!("lowerdir={}", lower.display()),
        format!("upperdir={}", upper.display()),
        format!("workdir={}", work.display()),
    ];
    bundle.mount(json!({"destination": "/mnt", "type": "overlay", "source": "overlay", "options": options}));
    bundle.shell("cat /mnt/low; echo up > /mnt/up");
    assert_eq!(bundle.run().ok().stdout(), "low\n");
    assert_eq!(fs::read_to_string(upper.join("up")).unwrap(), "up\n");
    assert!(!lower.join("up").exists());
    // The kernel's own directory there is closed, and a user could not remove it.
    fs::set_permissions(work.join("work"), fs::Permissions::from_mode(0o700)).unwrap();
}

#[test]
fn an_idmapped_bind_shows_files_under_other_owners() {
    let mut bundle = bundle!();
    let source = bundle.scratch().join("source");
    fs::create_dir(&source).unwrap();
    std::os::unix::fs::chown(&source, Some(5), Some(6)).unwrap();
    let mapping = |from, to| json!([{"containerID": from, "hostID": to, "size": 1}]);
    bundle.mount(json!({"destination": "/mnt", "source": source, "options": ["bind", "idmap"],
        "uidMappings": mapping(5, 1005), "gidMappings": mapping(6, 1006)}));
    bundle.args(&["/witness", "stat", "/mnt"]);
    let stat = bundle.run().ok().json();
    assert_eq!((&stat["uid"], &stat["gid"]), (&json!(1005), &json!(1006)));
    assert_eq!(fs::metadata(&source).unwrap().uid(), 5);
}

#[test]
fn idmap_uses_the_containers_own_mapping_where_the_mount_has_none() {
    let mut bundle = bundle!();
    map_users(&mut bundle);
    let source = bundle.scratch().join("source");
    fs::create_dir(&source).unwrap();
    bundle.mount(json!({"destination": "/mnt", "source": source, "options": ["bind", "idmap"]}));
    bundle.mount(json!({"destination": "/plain", "source": source, "options": ["bind"]}));
    bundle.shell("/witness stat /mnt; /witness stat /plain");
    let output = bundle.run().ok().stdout();
    let owners: Vec<u64> = output
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap()["uid"].as_u64().unwrap())
        .collect();
    assert_eq!(owners, [0, 65534]);
}

#[test]
fn ridmap_maps_the_whole_tree_and_idmap_its_top() {
    let mut bundle = bundle!();
    let kernel = rustix::system::uname().release().to_string_lossy().into_owned();
    let numbers: Vec<u32> = kernel.split(['.', '-']).map_while(|number| number.parse().ok()).collect();
    if numbers.as_slice() < [6, 3].as_slice() {
        skip!("Linux {kernel} maps no ids of a tmpfs");
    }
    let (source, _below) = tree(&bundle);
    for (target, option) in [("/top", "idmap"), ("/whole", "ridmap")] {
        let mapping = json!([{"containerID": 0, "hostID": 7, "size": 1}]);
        bundle.mount(json!({"destination": target, "source": source, "options": ["rbind", option],
            "uidMappings": mapping, "gidMappings": mapping}));
    }
    bundle.shell("for path in /top /top/below /whole /whole/below; do stat -c %u $path; done");
    assert_eq!(bundle.run().ok().stdout(), "7\n0\n7\n7\n");
}

#[test]
fn the_root_is_read_only_when_asked() {
    for (readonly, attempt) in [(true, "EROFS"), (false, "ok")] {
        let mut bundle = bundle!();
        bundle.set("/root/readonly", json!(readonly)).args(&["/witness", "create", "/new"]);
        assert_eq!(bundle.run().ok().stdout(), format!("{attempt}\n"), "readonly: {readonly}");
        assert_eq!(bundle.rootfs().join("new").exists(), !readonly);
    }
}

#[test]
fn the_root_has_the_asked_propagation() {
    for (propagation, shared) in [("shared", true), ("rshared", true), ("private", false), ("rslave", false)]
    {
        let mut bundle = bundle!();
        bundle.set("/linux/rootfsPropagation", json!(propagation));
        let report = bundle.report();
        let tags = &mount_at(&report, "/")["propagation"];
        assert_eq!(has(tags, "shared"), shared, "{propagation}: {tags}");
        assert_eq!(bundle.traces().mounts.len(), 0, "{propagation} leaks to the host");
    }
}

#[test]
fn an_absolute_root_path_is_taken_as_it_is() {
    let mut bundle = bundle!();
    let rootfs = bundle.rootfs();
    bundle.set("/root/path", json!(rootfs)).args(&["/bin/true"]);
    bundle.run().ok();
}

#[test]
fn the_old_root_is_nowhere_in_the_container() {
    for options in [&[][..], &["--no-pivot"]] {
        let mut bundle = bundle!();
        bundle.args(&["/witness", "report"]);
        let report = bundle.birth("run", options).output().ok().json();
        assert_eq!(report["cwd"], "/");
        assert!(has(&report["root"], "witness"), "{options:?}: {}", report["root"]);
        let targets: Vec<&str> = report["mounts"]
            .as_array()
            .unwrap()
            .iter()
            .map(|mount| mount["target"].as_str().unwrap())
            .collect();
        let known = ["/", "/proc", "/dev", "/sys"];
        for target in targets {
            let inside = known.iter().any(|top| target == *top || target.starts_with(&format!("{top}/")));
            assert!(inside, "{options:?}: {target} is a mount of the host");
        }
    }
}

#[test]
fn no_pivot_leaves_a_root_that_cannot_be_left() {
    let mut bundle = bundle!();
    bundle.privileged().shell("cd ..; cd ../../..; ls witness; chroot . /witness list / 2>/dev/null || true");
    let output = bundle.birth("run", &["--no-pivot"]).output().ok().stdout();
    assert!(output.starts_with("witness\n"), "{output}");
}

#[test]
fn a_bind_of_a_single_device_or_socket_keeps_its_kind() {
    let mut bundle = bundle!();
    let socket = bundle.scratch().join("socket");
    let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    bundle.mount(json!({"destination": "/run/socket", "source": socket, "options": ["bind"]}));
    bundle.mount(json!({"destination": "/dev/mine", "source": "/dev/null", "options": ["bind"]}));
    bundle.shell("/witness stat /run/socket; /witness stat /dev/mine");
    let output = bundle.run().ok().stdout();
    let kinds: Vec<Value> =
        output.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()["type"].clone()).collect();
    assert_eq!(kinds, ["socket", "char"]);
}
