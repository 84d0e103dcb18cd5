//! Annotations of crun's, which engines and their users rely on, and the mount options that only crun has.

use std::fs;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{MetadataExt, chown, symlink};
use std::os::unix::net::UnixListener;

use base64::Engine;
use serde_json::{Value, json};

use crate::bundle::{Bundle, bundle, skip};
use crate::call::{Call, eventually};
use crate::namespaces::map_users;
use crate::seccomp::{Agent, has_python, notifying};
use crate::terminal::receive_file;

fn annotate(bundle: &mut Bundle, name: &str, value: &str) {
    bundle.config["annotations"][name] = json!(value);
}

#[test]
fn groups_of_the_caller_are_kept_when_asked() {
    let mut bundle = bundle!();
    annotate(&mut bundle, "run.oci.keep_original_groups", "1");
    bundle.args(&["/witness", "report"]).write_config();
    let call = Call::new("setpriv", &bundle.scratch()).args(["--groups", "5,27"]).arg(&bundle.runtime);
    let call = call.arg("--root").arg(bundle.state_root()).args(["run", "--bundle"]).arg(bundle.path());
    assert_eq!(call.arg(&bundle.id).output().ok().json()["groups"], json!([5, 27]));
}

#[test]
fn the_pidfd_receiver_gets_a_pidfd_of_init() {
    let mut bundle = bundle!();
    let path = bundle.scratch().join("pidfd.sock");
    let listener = UnixListener::bind(&path).unwrap();
    annotate(&mut bundle, "run.oci.pidfd_receiver", path.to_str().unwrap());
    bundle.create().ok();
    let (pidfd, _) = receive_file(&listener);
    let info = fs::read_to_string(format!("/proc/self/fdinfo/{}", pidfd.as_raw_fd())).unwrap();
    assert!(info.contains(&format!("Pid:\t{}\n", bundle.pid())), "{info}");
}

#[test]
fn what_hooks_print_is_added_to_the_named_files() {
    let mut bundle = bundle!();
    let (out, err) = (bundle.scratch().join("hooks.out"), bundle.scratch().join("hooks.err"));
    fs::write(&out, "before\n").unwrap();
    annotate(&mut bundle, "run.oci.hooks.stdout", out.to_str().unwrap());
    annotate(&mut bundle, "run.oci.hooks.stderr", err.to_str().unwrap());
    let kinds = ["prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"];
    for kind in kinds {
        let line = format!("echo {kind}; echo {kind} failed >&2");
        bundle.set(&format!("/hooks/{kind}"), json!([{"path": "/bin/sh", "args": ["sh", "-c", line]}]));
    }
    let report = bundle.report();
    assert_eq!(report["fds"].as_object().unwrap().len(), 3, "{}", report["fds"]);
    let said = |tail: &str| kinds.map(|kind| format!("{kind}{tail}\n")).concat();
    assert_eq!(fs::read_to_string(&out).unwrap(), format!("before\n{}", said("")));
    assert_eq!(fs::read_to_string(&err).unwrap(), said(" failed"));
    assert_eq!(fs::metadata(&err).unwrap().mode() & 0o777, 0o600);
}

#[test]
fn one_stream_of_a_hook_may_go_to_a_file_and_the_other_into_the_error() {
    let mut bundle = bundle!();
    let out = bundle.scratch().join("hooks.out");
    annotate(&mut bundle, "run.oci.hooks.stdout", out.to_str().unwrap());
    let hook = json!([{"path": "/bin/sh", "args": ["sh", "-c", "echo log; echo reason >&2; exit 3"]}]);
    bundle.set("/hooks/createContainer", hook);
    bundle.create().refused(1, &["createContainer hook 0 (/bin/sh): ", "saying: reason"]);
    assert_eq!(fs::read_to_string(&out).unwrap(), "log\n");
}

#[test]
fn a_compiled_filter_is_loaded_as_it_is() {
    if !cfg!(target_arch = "x86_64") {
        skip!("the filter is for x86-64");
    }
    let mut bundle = bundle!();
    let instruction = |code: u16, jump_false: u8, constant: u32| {
        let mut bytes = code.to_ne_bytes().to_vec();
        bytes.extend([0, jump_false]);
        bytes.extend(constant.to_ne_bytes());
        bytes
    };
    let refusal = libc::SECCOMP_RET_ERRNO | libc::EXDEV as u32;
    let program = [
        instruction(0x20, 0, 0),
        instruction(0x15, 1, libc::SYS_mkdir as u32),
        instruction(0x06, 0, refusal),
        instruction(0x06, 0, libc::SECCOMP_RET_ALLOW),
    ];
    let program = base64::prelude::BASE64_STANDARD.encode(program.concat());
    annotate(&mut bundle, "run.oci.seccomp_bpf_data", &program);
    bundle.shell("mkdir /made 2>&1; grep Seccomp: /proc/self/status");
    let output = bundle.run().ok().stdout();
    assert!(output.contains("cross-device"), "{output}");
    assert!(output.contains("Seccomp:\t2"), "{output}");

    annotate(&mut bundle, "run.oci.seccomp_bpf_data", "BgAA");
    bundle.create().refused(1, &["config.json: annotations.run.oci.seccomp_bpf_data: has 3 bytes"]);
}

#[test]
fn an_unknown_call_is_an_error_when_asked() {
    let mut bundle = bundle!();
    let profile = json!({"defaultAction": "SCMP_ACT_ALLOW",
        "syscalls": [{"names": ["flarp"], "action": "SCMP_ACT_ERRNO"}]});
    bundle.set("/linux/seccomp", profile).args(&["/bin/true"]);
    bundle.run().ok();
    annotate(&mut bundle, "run.oci.seccomp_fail_unknown_syscall", "1");
    bundle.create().refused(1, &["config.json: linux.seccomp.syscalls: this machine has no flarp"]);
}

#[test]
fn a_seccomp_receiver_is_named_by_annotation_or_environment() {
    if !has_python() {
        skip!("python3 is not installed");
    }
    for by_annotation in [true, false] {
        let mut bundle = bundle!();
        let agent = Agent::new(&bundle, libc::EXDEV);
        notifying(&mut bundle, &agent.socket);
        bundle.unset("/linux/seccomp", "listenerPath").shell("mkdir /made 2>&1; sleep 60");
        let mut call = bundle.birth("create", &[]);
        if by_annotation {
            annotate(&mut bundle, "run.oci.seccomp.receiver", &agent.socket);
            bundle.write_config();
        } else {
            call = call.env("RUN_OCI_SECCOMP_RECEIVER", &agent.socket);
        }
        let created = call.output().ok();
        bundle.start().ok();
        eventually("the agent has answered", || created.stdout().contains("cross-device").then_some(()));
    }
}

#[test]
fn executors_that_corten_does_not_have_are_refused_by_name() {
    for (name, value) in [
        ("run.oci.handler", "krun"),
        ("run.oci.handler", "wasm"),
        ("module.wasm.image/variant", "compat"),
        ("run.oci.seccomp.plugins", "a.so"),
    ] {
        let mut bundle = bundle!();
        annotate(&mut bundle, name, value);
        bundle
            .create()
            .refused(1, &[&format!("config.json: annotations.{name}: {value:?} is asked for, but")]);
        bundle.assert_nothing_left("a refused create");
    }
}

/// A bind mount of a link that leads to a file in the same directory.
fn link(bundle: &Bundle) -> std::path::PathBuf {
    let source = bundle.scratch().join("source");
    fs::create_dir(&source).unwrap();
    fs::write(source.join("file"), "text").unwrap();
    symlink("file", source.join("link")).unwrap();
    source.join("link")
}

#[test]
fn copy_symlink_makes_a_link_like_the_source() {
    let mut bundle = bundle!();
    let source = link(&bundle);
    bundle.mount(json!({"destination": "/copy", "source": source, "options": ["bind", "copy-symlink"]}));
    let file = source.with_file_name("file");
    bundle.mount(json!({"destination": "/file", "source": file, "options": ["bind", "copy-symlink"]}));
    bundle.shell("readlink /copy; cat /copy");
    assert_eq!(bundle.run().ok().stdout(), "file\ntext");
}

#[test]
fn src_nofollow_mounts_the_link_itself_and_not_what_it_leads_to() {
    let mut bundle = bundle!();
    let source = link(&bundle);
    bundle.mount(json!({"destination": "/plain", "source": source, "options": ["bind"]}));
    bundle.shell("cat /plain");
    assert_eq!(bundle.run().ok().stdout(), "text");

    let mut bundle = bundle!();
    let source = link(&bundle);
    let hidden = source.with_file_name("file");
    fs::remove_file(&hidden).unwrap();
    bundle.mount(json!({"destination": "/link", "source": source, "options": ["bind", "src-nofollow"]}));
    bundle.shell("readlink /link");
    let output = bundle.run();
    // The kernel mounts links since Linux 6.12; before, it refuses them. Neither follows.
    assert!(output.code() == 0 || output.stderr.contains("bind on /link"), "{output}");
}

#[test]
fn dest_nofollow_does_not_mount_where_a_link_of_the_image_leads() {
    for (options, led) in [(json!(["bind"]), true), (json!(["bind", "dest-nofollow"]), false)] {
        let mut bundle = bundle!();
        let source = bundle.scratch().join("source");
        fs::create_dir(&source).unwrap();
        fs::write(source.join("mark"), "").unwrap();
        fs::create_dir(bundle.rootfs().join("real")).unwrap();
        symlink("real", bundle.rootfs().join("led")).unwrap();
        bundle.mount(json!({"destination": "/led", "source": source, "options": options}));
        bundle.shell("ls /real");
        let output = bundle.run();
        assert_eq!(output.stdout() == "mark\n", led, "{output}");
    }
}

/// The owner that the container's root sees of a directory that belongs to 5 and 6.
fn owner(bundle: &mut Bundle, option: &str) -> Value {
    let source = bundle.scratch().join("source");
    fs::create_dir(&source).unwrap();
    chown(&source, Some(5), Some(6)).unwrap();
    bundle.mount(json!({"destination": "/mnt", "source": source, "options": ["bind", option]}));
    bundle.args(&["/witness", "stat", "/mnt"]);
    let stat = bundle.run().ok().json();
    json!([stat["uid"], stat["gid"]])
}

#[test]
fn an_option_can_hold_the_mappings_of_its_mount() {
    let option = "idmap=uids=0-100-1#5-1005-1;gids=6-1006-1";
    assert_eq!(owner(&mut bundle!(), option), json!([1005, 1006]));
}

#[test]
fn mappings_with_an_at_sign_are_moved_as_the_container_is() {
    let mut bundle = bundle!();
    map_users(&mut bundle);
    // On disk 5, in the container what its own namespace calls 7.
    let option = "idmap=uids=@5-7-1;gids=@6-8-1";
    assert_eq!(owner(&mut bundle, option), json!([7, 8]));
}
