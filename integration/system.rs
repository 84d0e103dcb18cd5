//! System containers: this machine's own Debian, with systemd as the first process, below one group that it may divide.
//! Only where there is such a system, and a v2 hierarchy, which lets a container have a part of the tree.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use serde_json::json;

use crate::bundle::{Bundle, bundle, skip};
use crate::call::Call;
use crate::cgroups::unified;
use crate::traces::hierarchies;

const SYSTEMD: &str = "/usr/lib/systemd/systemd";

/// A virtual machine without the processor's help takes its time.
const PATIENCE: Duration = Duration::from_secs(240);

/// The machine's root with a layer of our own on it, at the bundle's rootfs; and the tmpfs that holds the layer.
struct Layer([PathBuf; 2]);

impl Layer {
    fn over_the_machine(bundle: &Bundle) -> Layer {
        let own = bundle.scratch().join("layer");
        fs::create_dir(&own).expect("make a directory");
        mount(Some("tmpfs"), &own, Some("tmpfs"), MsFlags::empty(), Some("mode=755")).expect("mount a tmpfs");
        for name in ["upper", "work"] {
            fs::create_dir(own.join(name)).expect("make a directory");
        }
        let root = bundle.rootfs();
        let (upper, work) = (own.join("upper"), own.join("work"));
        let options = format!("lowerdir=/,upperdir={},workdir={}", upper.display(), work.display());
        mount(Some("overlay"), &root, Some("overlay"), MsFlags::empty(), Some(options.as_str()))
            .expect("mount an overlay");
        Layer([root, own])
    }
}

impl Drop for Layer {
    fn drop(&mut self) {
        for mount in &self.0 {
            umount2(mount, MntFlags::MNT_DETACH).expect("unmount a layer");
        }
    }
}

/// What an engine configures for a container whose program is systemd (Podman's `--systemd=always`).
fn configure(bundle: &mut Bundle) {
    bundle.args(&[SYSTEMD]).set("/root/readonly", json!(false)).set("/hostname", json!("box"));
    bundle.set(
        "/process/env",
        json!(["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin", "container=oci"]),
    );
    // Those that Podman gives: no right to mount, to load modules or to set clocks.
    let capabilities = [
        "CAP_CHOWN",
        "CAP_DAC_OVERRIDE",
        "CAP_FOWNER",
        "CAP_FSETID",
        "CAP_KILL",
        "CAP_NET_BIND_SERVICE",
        "CAP_SETFCAP",
        "CAP_SETGID",
        "CAP_SETPCAP",
        "CAP_SETUID",
        "CAP_SYS_CHROOT",
    ];
    let sets = json!({"bounding": capabilities, "effective": capabilities, "permitted": capabilities});
    bundle.set("/process/capabilities", sets).set("/process/noNewPrivileges", json!(false));
    for path in ["/run", "/run/lock", "/tmp"] {
        let options = ["rw", "nosuid", "nodev", "mode=755"];
        bundle.mount(json!({"destination": path, "type": "tmpfs", "source": "tmpfs", "options": options}));
    }
    let mounts = bundle.config["mounts"].as_array_mut().unwrap();
    let group = mounts.iter_mut().find(|mount| mount["destination"] == "/sys/fs/cgroup").unwrap();
    *group = json!({"destination": "/sys/fs/cgroup", "type": "cgroup2", "source": "cgroup",
                    "options": ["rw", "nosuid", "nodev", "noexec"]});
    bundle.set("/linux/resources/pids/limit", json!(4096));
}

#[track_caller]
fn within<T>(what: &str, patience: Duration, mut ask: impl FnMut() -> Result<T, String>) -> T {
    let start = Instant::now();
    loop {
        match ask() {
            Ok(answer) => return answer,
            Err(last) => assert!(start.elapsed() < patience, "never happened: {what}; last: {last}"),
        }
        sleep(Duration::from_millis(500));
    }
}

#[test]
fn a_debian_with_systemd_boots_to_multi_user_and_stops_on_its_signal() {
    let has_v2 = unified() || hierarchies().iter().any(|one| one.ends_with("unified"));
    if !has_v2 || !Path::new(SYSTEMD).exists() {
        skip!("needs systemd and a v2 hierarchy");
    }
    let mut bundle = bundle!();
    let layer = Layer::over_the_machine(&bundle);
    configure(&mut bundle);
    // What the virtual machine itself is there for.
    let wants = bundle.rootfs().join("etc/systemd/system/multi-user.target.wants/vm-run.service");
    let _ = fs::remove_file(wants);
    let output = bundle.create().ok();
    bundle.start().ok();

    let systemctl = |words: &[&str]| {
        let output = bundle.exec(&[&["/usr/bin/systemctl"], words].concat());
        (output.code(), output.stdout().trim().to_string(), output.stderr)
    };
    within("multi-user.target is reached", PATIENCE, || {
        match systemctl(&["is-active", "multi-user.target"]) {
            (0, ..) => Ok(()),
            other => Err(format!("{other:?}; {}", output.stdout())),
        }
    });
    let (_, state, _) = systemctl(&["is-system-running", "--wait"]);
    let (_, failed, _) = systemctl(&["list-units", "--failed", "--plain", "--no-legend"]);
    println!("the system is {state}; failed: {failed}");
    assert!(["running", "degraded"].contains(&state.as_str()), "{state}");
    // It has divided its part of the tree: it is in init.scope itself, and so is who comes by exec.
    let group_of = |process: &str| {
        let groups = bundle.exec(&["/bin/cat", &format!("/proc/{process}/cgroup")]).ok().stdout();
        groups.lines().find_map(|line| line.strip_prefix("0::").map(String::from))
    };
    assert_eq!(group_of("1").as_deref(), Some("/init.scope"));
    let (_, control, _) = systemctl(&["show", "--property", "ControlGroup", "dbus.service"]);
    assert_eq!(control, "ControlGroup=/system.slice/dbus.service");
    assert_eq!(group_of("self").as_deref(), Some("/init.scope"));
    if unified() {
        let limit = bundle.exec(&["/bin/cat", "/sys/fs/cgroup/pids.max"]).ok().stdout();
        assert_eq!(limit, "4096\n", "its own group is the root of its tree");
    }

    bundle.kill("SIGRTMIN+3").ok();
    within("the system has stopped", PATIENCE, || match bundle.state()["status"].as_str() {
        Some("stopped") => Ok(()),
        other => Err(format!("{other:?}")),
    });
    assert_eq!(bundle.wait(), 0);
    bundle.delete().ok();
    drop(layer);
    bundle.assert_nothing_left("a system that was shut down");
}

/// A service of the machine's own systemd, whose program is the runtime.
struct Unit(String);

impl Unit {
    fn start(bundle: &Bundle, options: &[&str]) -> Unit {
        bundle.write_config();
        let unit = format!("{}.service", bundle.id);
        let mut call = Call::new("systemd-run", &bundle.scratch());
        call =
            call.args(["--quiet", "--service-type=notify", "--property=NotifyAccess=all", "--unit", &unit]);
        call = call.arg(&bundle.runtime).arg("--root").arg(bundle.state_root()).arg("run").args(options);
        call.arg("--bundle")
            .arg(bundle.path())
            .arg("--pid-file")
            .arg(bundle.pid_file())
            .arg(&bundle.id)
            .output()
            .ok();
        Unit(unit)
    }

    fn property(&self, name: &str) -> String {
        let output =
            Command::new("systemctl").args(["show", "--value", "--property", name, &self.0]).output();
        String::from_utf8(output.expect("run systemctl").stdout).expect("text").trim().to_string()
    }
}

impl Drop for Unit {
    fn drop(&mut self) {
        for verb in ["stop", "reset-failed"] {
            // It may have ended by itself, and well.
            let _ = Command::new("systemctl").args([verb, &self.0]).output();
        }
    }
}

#[test]
fn a_unit_of_type_notify_is_active_when_its_container_is_ready() {
    if !Path::new("/run/systemd/system").exists() {
        skip!("needs a machine that systemd runs");
    }
    for detached in [false, true] {
        let mut bundle = bundle!();
        bundle.shell(
            "trap 'exit 0' TERM; sleep 2; touch /tmp/ready; /witness notify 'STATUS=it is up\nREADY=1'; while :; do sleep 0.1; done",
        );
        let shared = bundle.scratch().join("shared");
        fs::create_dir(&shared).unwrap();
        bundle.mount(json!({"destination": "/tmp", "source": shared, "options": ["bind"]}));
        let unit = Unit::start(&bundle, if detached { &["--detach"] } else { &[] });
        assert!(shared.join("ready").exists(), "it was active before it was ready");
        assert_eq!(unit.property("ActiveState"), "active", "detached: {detached}");
        assert_eq!(unit.property("StatusText"), "it is up");
        let main = unit.property("MainPID");
        assert_eq!(main == bundle.pid().to_string(), detached, "{main}");
        drop(unit);
        within("the container has stopped", PATIENCE, || {
            let state = bundle.verb("state", &[]);
            match state.code() == 0 && state.json()["status"] != "stopped" {
                true => Err(state.to_string()),
                false => Ok(()),
            }
        });
        bundle.verb("delete", &["--force"]).ok();
        bundle.assert_nothing_left("a unit that was stopped");
    }
}
