//! The systemd cgroup driver: a scope with what systemd is to know, the files beneath it, and no unit left behind.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

use crate::bundle::{Bundle, bundle, skip, wait_for};
use crate::call::{Call, Output, eventually};
use crate::cgroups::{hierarchy, on_v2, unified};
use crate::traces::hierarchies;

/// Leaves a test on a machine that systemd does not run.
macro_rules! managed {
    () => {{
        if !Path::new("/run/systemd/system").exists() {
            skip!("systemd does not run this machine");
        }
        let mut bundle = bundle!();
        let path = format!("system.slice:t:{}", bundle.id);
        bundle.set("/linux/cgroupsPath", json!(path));
        bundle
    }};
}

fn unit(bundle: &Bundle) -> String {
    format!("t-{}.scope", bundle.id)
}

/// Where systemd keeps track of the scope: the hierarchy of its own, or the only one.
fn group(bundle: &Bundle) -> PathBuf {
    group_of(bundle, "name=systemd")
}

fn group_of(bundle: &Bundle, controller: &str) -> PathBuf {
    let hierarchy = hierarchy(controller).unwrap_or_else(|| "/sys/fs/cgroup".into());
    hierarchy.join("system.slice").join(unit(bundle))
}

/// A file of the scope's group, in the hierarchy of the controller that its name begins with.
fn file(bundle: &Bundle, name: &str) -> String {
    let group = match name.split('.').next().unwrap() {
        "cgroup" => group(bundle),
        controller => group_of(bundle, controller),
    };
    let path = group.join(name);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display())).trim().to_string()
}

/// `create` with the driver; all later commands go without the option.
fn create(bundle: &Bundle) -> Output {
    bundle.write_config();
    let call = bundle.call(["--systemd-cgroup", "create", "--bundle"]).arg(bundle.path());
    call.arg("--pid-file").arg(bundle.pid_file()).arg(&bundle.id).output()
}

fn running(bundle: &mut Bundle) -> Output {
    bundle.args(&["/witness", "signal-wait"]);
    let output = create(bundle).ok();
    bundle.start().ok();
    eventually("the witness waits for a signal", || output.stdout().contains("ready").then_some(()));
    output
}

fn systemctl(words: &[&str]) -> String {
    let output = Command::new("systemctl").args(words).output().expect("run systemctl");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn shown(unit: &str, property: &str) -> String {
    systemctl(&["show", "--value", "-p", property, unit]).trim().to_string()
}

/// Whether systemd has forgotten the unit: it is neither active nor failed.
#[track_caller]
fn assert_no_unit(bundle: &Bundle) {
    let listed = systemctl(&["list-units", "--all", "--no-legend", "--plain", &unit(bundle)]);
    assert_eq!(listed, "", "the unit is still there");
    assert!(!group(bundle).exists(), "its group is still there");
    let transient = Path::new("/run/systemd/transient").join(unit(bundle));
    assert!(!transient.exists(), "its file is still there");
}

/// What a file, or a property of the unit, is called and says on v1 and on v2.
type Said = (&'static str, &'static str);

/// The properties and files of a controller.
#[track_caller]
fn assert_said(bundle: &Bundle, controller: &str, properties: &[(Said, Said)], files: &[(Said, Said)]) {
    let pick = |(v1, v2): &(Said, Said)| if on_v2(controller) { *v2 } else { *v1 };
    for (property, value) in properties.iter().map(pick) {
        assert_eq!(shown(&unit(bundle), property), value, "{property}");
    }
    for (name, value) in files.iter().map(pick) {
        assert_eq!(file(bundle, name), value, "{name}");
    }
}

const fn both(said: Said) -> (Said, Said) {
    (said, said)
}

#[test]
fn a_container_can_be_given_a_group_below_its_scope() {
    let mut bundle = managed!();
    if !unified() {
        skip!("only cgroup v2 alone can be delegated to a container");
    }
    bundle
        .set("/annotations", json!({"run.oci.delegate-cgroup": "own"}))
        .add_namespace(json!({"type": "cgroup"}));
    bundle.set("/linux/resources", json!({"memory": {"limit": 67_108_864}, "pids": {"limit": 20}}));
    bundle.config["mounts"].as_array_mut().unwrap().last_mut().unwrap()["options"] =
        json!(["nosuid", "noexec", "nodev", "rw"]);
    bundle.shell(
        "cd /sys/fs/cgroup; cat /proc/self/cgroup memory.max; mkdir below && echo made; exec sleep 600",
    );
    let output = create(&bundle).ok();
    bundle.start().ok();
    eventually("the shell has made a group", || output.stdout().contains("made").then_some(()));
    assert_eq!(output.stdout(), "0::/\nmax\nmade\n");
    assert!(group(&bundle).join("own/below").exists());
    assert_eq!(
        (file(&bundle, "memory.max"), shown(&unit(&bundle), "TasksMax")),
        ("67108864".into(), "20".into())
    );
    assert_eq!(bundle.exec(&["/bin/cat", "/proc/self/cgroup"]).ok().stdout(), "0::/\n");
    bundle.verb("update", &["--pids-limit", "30"]).ok();
    assert_eq!((file(&bundle, "pids.max"), shown(&unit(&bundle), "TasksMax")), ("30".into(), "30".into()));
    bundle.verb("delete", &["--force"]).ok();
    assert_no_unit(&bundle);
    bundle.assert_nothing_left("a scope with a group of the container's");
}

#[test]
fn a_scope_knows_what_the_container_is_limited_to() {
    let mut bundle = managed!();
    bundle.set(
        "/linux/resources",
        json!({
            "memory": {"limit": 67_108_864, "swap": 134_217_728, "reservation": 33_554_432},
            "cpu": {"shares": 512, "quota": 12_345, "period": 100_000, "cpus": "0", "mems": "0"},
            "pids": {"limit": 17},
            "devices": [{"allow": false, "access": "rwm"}],
        }),
    );
    if unified() {
        bundle.set("/linux/resources/unified", json!({"memory.high": "50331648", "cpu.max.burst": "1000"}));
    }
    running(&mut bundle);
    assert_said(
        &bundle,
        "",
        &[
            both(("ActiveState", "active")),
            both(("Slice", "system.slice")),
            both(("Delegate", "yes")),
            both(("Transient", "yes")),
            both(("DevicePolicy", "strict")),
            both(("NeedDaemonReload", "no")),
        ],
        &[],
    );
    // Files have what systemd rounds, and what it does not know.
    assert_said(
        &bundle,
        "memory",
        &[
            (("MemoryLimit", "67108864"), ("MemoryMax", "67108864")),
            (("MemorySwapMax", "infinity"), ("MemorySwapMax", "67108864")),
            (("MemoryLow", "0"), ("MemoryLow", "33554432")),
        ],
        &[
            (("memory.limit_in_bytes", "67108864"), ("memory.max", "67108864")),
            (("memory.memsw.limit_in_bytes", "134217728"), ("memory.swap.max", "67108864")),
            (("memory.soft_limit_in_bytes", "33554432"), ("memory.low", "33554432")),
        ],
    );
    assert_said(
        &bundle,
        "cpu",
        &[(("CPUShares", "512"), ("CPUWeight", "59")), both(("CPUQuotaPerSecUSec", "130ms"))],
        &[
            (("cpu.shares", "512"), ("cpu.weight", "59")),
            (("cpu.cfs_quota_us", "12345"), ("cpu.max", "12345 100000")),
        ],
    );
    // v1's cpusets are none of systemd's business.
    assert_said(
        &bundle,
        "cpuset",
        &[
            (("AllowedCPUs", ""), ("AllowedCPUs", "0")),
            (("AllowedMemoryNodes", ""), ("AllowedMemoryNodes", "0")),
        ],
        &[both(("cpuset.cpus", "0"))],
    );
    assert_said(&bundle, "pids", &[both(("TasksMax", "17"))], &[both(("pids.max", "17"))]);
    if unified() {
        let files = [both(("memory.high", "50331648")), both(("cpu.max.burst", "1000"))];
        assert_said(&bundle, "", &[both(("MemoryHigh", "50331648"))], &files);
    }
    assert!(shown(&unit(&bundle), "DeviceAllow").contains("/dev/char/1:3 rwm"));
}

#[test]
fn the_first_process_is_in_the_scope_on_every_hierarchy() {
    let mut bundle = managed!();
    running(&mut bundle);
    let second = bundle.exec_detached(&[], &["/bin/sleep", "60"]);
    for hierarchy in hierarchies() {
        let procs = hierarchy.join("system.slice").join(unit(&bundle)).join("cgroup.procs");
        let text = fs::read_to_string(&procs).unwrap_or_else(|error| panic!("{}: {error}", procs.display()));
        let pids: Vec<&str> = text.lines().collect();
        assert_eq!(pids, [bundle.pid().to_string(), second.to_string()], "{}", procs.display());
    }
}

#[test]
fn the_default_scope_is_named_after_the_container() {
    let mut bundle = managed!();
    bundle.unset("/linux", "cgroupsPath");
    running(&mut bundle);
    let unit = format!("corten-{}.scope", bundle.id);
    assert_eq!(shown(&unit, "ActiveState"), "active");
    assert_eq!(shown(&unit, "ControlGroup"), format!("/system.slice/{unit}"));
    bundle.verb("delete", &["--force"]).ok();
    assert_eq!(shown(&unit, "ActiveState"), "inactive");
}

#[test]
fn a_slice_is_made_below_those_that_its_name_says() {
    let mut bundle = managed!();
    let id = bundle.id.replace('-', "_");
    bundle.set("/linux/cgroupsPath", json!(format!("tt-{id}.slice:t:{}", bundle.id)));
    running(&mut bundle);
    let expected = format!("/tt.slice/tt-{id}.slice/{}", unit(&bundle));
    assert_eq!(shown(&unit(&bundle), "ControlGroup"), expected);
    bundle.verb("delete", &["--force"]).ok();
    systemctl(&["stop", &format!("tt-{id}.slice")]);
}

#[test]
fn every_later_command_finds_the_scope_without_the_option() {
    let mut bundle = managed!();
    let output = running(&mut bundle);
    let exec = bundle.exec(&["/bin/cat", "/proc/self/cgroup"]).ok();
    assert!(exec.stdout().lines().all(|line| line.ends_with(":/")), "not in the container's group: {exec}");
    let second = bundle.exec_detached(&[], &["/bin/sleep", "60"]);
    assert!(file(&bundle, "cgroup.procs").contains(&second.to_string()));
    let ps: Vec<i32> = serde_json::from_value(bundle.verb("ps", &["--format", "json"]).ok().json()).unwrap();
    assert!(ps.contains(&bundle.pid()) && ps.contains(&second), "{ps:?}");

    bundle.verb("pause", &[]).ok();
    bundle.assert_status("paused");
    let (frozen, state) = if unified() { ("cgroup.freeze", "1") } else { ("freezer.state", "FROZEN") };
    assert_eq!(file(&bundle, frozen), state);
    bundle.verb("resume", &[]).ok();
    let stats = bundle.verb("events", &["--stats"]).ok().json();
    assert!(stats["data"]["memory"]["usage"]["usage"].as_u64().unwrap() > 0, "{stats}");

    // The namespace does not end before its other process was waited for.
    kill(Pid::from_raw(second), Signal::SIGKILL).expect("kill the second process");
    wait_for(second);
    bundle.kill("USR1").ok();
    eventually("the signal arrives", || output.stdout().contains("SIGUSR1").then_some(()));
    bundle.wait();
    bundle.verb("delete", &["--force"]).ok();
    assert_no_unit(&bundle);
}

#[test]
fn update_tells_systemd_and_the_files() {
    let mut bundle = managed!();
    bundle.set("/linux/resources", json!({"memory": {"limit": 67_108_864}, "pids": {"limit": 20}}));
    running(&mut bundle);
    let unit = unit(&bundle);
    bundle.verb("update", &["--memory", "33554432", "--pids-limit", "-1", "--cpu-quota", "12345"]).ok();
    let memory = (("memory.limit_in_bytes", "33554432"), ("memory.max", "33554432"));
    let limit = (("MemoryLimit", "33554432"), ("MemoryMax", "33554432"));
    assert_said(&bundle, "memory", &[limit], &[memory]);
    let quota = (("cpu.cfs_quota_us", "12345"), ("cpu.max", "12345 100000"));
    assert_said(&bundle, "cpu", &[both(("CPUQuotaPerSecUSec", "130ms"))], &[quota]);
    assert_said(&bundle, "pids", &[both(("TasksMax", "infinity"))], &[both(("pids.max", "max"))]);
    assert_eq!(shown(&unit, "NeedDaemonReload"), "no");

    // What cannot be changed as a whole is not changed at all.
    bundle
        .verb("update", &["--pids-limit", "9", "--cpuset-cpus", "8191"])
        .refused(1, &["no limit was changed"]);
    assert_eq!((shown(&unit, "TasksMax").as_str(), file(&bundle, "pids.max").as_str()), ("infinity", "max"));

    systemctl(&["daemon-reload"]);
    assert_said(&bundle, "memory", &[], &[memory]);
}

#[test]
fn delete_leaves_no_unit() {
    for by_force in [false, true] {
        let mut bundle = managed!();
        running(&mut bundle);
        if by_force {
            bundle.verb("delete", &["--force"]).ok();
        } else {
            bundle.kill("KILL").ok();
            bundle.wait();
            bundle.delete().ok();
        }
        assert_no_unit(&bundle);
    }
}

#[test]
fn a_create_that_fails_leaves_no_unit() {
    let failures: Vec<(&str, Value)> = vec![
        ("/process/args", json!(["/no/such/program"])),
        ("/hooks/createRuntime", json!([{"path": "/bin/false"}])),
        ("/linux/resources/unified", json!({"memory.nonsense": "1"})),
        ("/annotations", json!({"org.systemd.property.NoSuchThing": "true"})),
        ("/annotations", json!({"org.systemd.property.TasksMax": "'many'"})),
    ];
    for (pointer, value) in failures {
        let mut bundle = managed!();
        bundle.set(pointer, value.clone());
        let output = create(&bundle);
        assert_ne!(output.code(), 0, "{value}: {output}");
        assert_eq!(output.stderr.lines().count(), 1, "{output}");
        assert_no_unit(&bundle);
        bundle.assert_nothing_left(&format!("a create with {value}"));
    }
}

#[test]
fn systemds_own_word_on_a_property_is_passed_on() {
    let mut bundle = managed!();
    bundle.set("/annotations", json!({"org.systemd.property.NoSuchThing": "true"}));
    create(&bundle).refused(1, &["the system's systemd", "StartTransientUnit", "NoSuchThing"]);
}

#[test]
fn a_unit_that_somebody_else_has_is_left_alone() {
    let bundle = managed!();
    let unit = unit(&bundle);
    let mut theirs = Command::new("systemd-run")
        .args(["--quiet", "--scope", "--unit", &unit, "sleep", "60"])
        .spawn()
        .expect("run systemd-run");
    eventually("their scope is there", || (shown(&unit, "ActiveState") == "active").then_some(()));
    create(&bundle).refused(1, &[&unit, "UnitExists"]);
    bundle.verb("delete", &["--force"]).ok();
    assert_eq!(shown(&unit, "ActiveState"), "active");
    theirs.kill().expect("end theirs");
    theirs.wait().expect("wait for theirs");
    eventually("their scope is gone", || (!group(&bundle).exists()).then_some(()));
}

#[test]
fn a_unit_that_has_failed_before_is_replaced() {
    let mut bundle = managed!();
    let unit = unit(&bundle);
    let failed = Command::new("systemd-run")
        .args(["--quiet", "--scope", "--unit", &unit, "-p", "RuntimeMaxSec=1", "-p", "SendSIGKILL=yes"])
        .args(["sleep", "30"])
        .status();
    assert!(!failed.expect("run systemd-run").success());
    eventually("it has failed", || (shown(&unit, "ActiveState") == "failed").then_some(()));
    running(&mut bundle);
    assert_eq!(shown(&unit, "ActiveState"), "active");
}

#[test]
fn a_runtime_that_is_killed_leaves_nothing_that_delete_does_not_take() {
    for delay in [0, 20, 50, 100, 200, 300, 450, 600, 800, 1000] {
        let mut bundle = managed!();
        bundle.args(&["/bin/sleep", "600"]);
        bundle.write_config();
        let call = bundle.call(["--systemd-cgroup", "create", "--bundle"]).arg(bundle.path());
        let running = call.arg("--pid-file").arg(bundle.pid_file()).arg(&bundle.id).spawn();
        std::thread::sleep(std::time::Duration::from_millis(delay));
        kill(Pid::from_raw(running.pid()), Signal::SIGKILL).expect("kill the runtime");
        running.wait();
        bundle.verb("delete", &["--force"]).ok();
        // Where it was killed before it wrote down that there is a unit, systemd collects it.
        eventually("systemd has collected the scope", || {
            (!group(&bundle).exists()
                && systemctl(&["list-units", "--all", "--no-legend", "--plain", &unit(&bundle)]).is_empty())
            .then_some(())
        });
    }
}

#[test]
fn devices_that_are_not_allowed_are_denied_by_both() {
    let mut bundle = managed!();
    bundle.privileged();
    bundle.set(
        "/linux/resources/devices",
        json!([
            {"allow": false, "access": "rwm"},
            {"allow": true, "type": "c", "major": 10, "minor": 250, "access": "rwm"},
        ]),
    );
    // 1:11 is the kernel's log, which exists everywhere; 10:250 is nothing, and has no node on the host.
    bundle.shell(
        "mknod /dev/kmsg c 1 11; mknod /dev/none c 10 250; echo ok > /dev/null && echo null; \
         cat /dev/kmsg 2>&1 | grep -o 'not permitted'; cat /dev/none 2>&1 | grep -o 'not permitted'; \
         echo end",
    );
    bundle.write_config();
    let call = bundle.call(["--systemd-cgroup", "run", "--bundle"]).arg(bundle.path()).arg(&bundle.id);
    assert_eq!(call.output().ok().stdout(), "null\nnot permitted\nend\n");
}

#[test]
fn annotations_are_properties_of_the_scope() {
    let mut bundle = managed!();
    bundle.set(
        "/annotations",
        json!({
            "org.systemd.property.TimeoutStopSec": "7",
            "org.systemd.property.CollectMode": "'inactive-or-failed'",
            "org.systemd.property.After": "['basic.target', 'sockets.target']",
            "org.systemd.property.KillSignal": "9",
            "org.systemd.property.RuntimeMaxUSec": "uint64 600000000",
        }),
    );
    running(&mut bundle);
    let unit = unit(&bundle);
    for (property, value) in [
        ("TimeoutStopUSec", "7s"),
        ("CollectMode", "inactive-or-failed"),
        ("KillSignal", "9"),
        ("RuntimeMaxUSec", "10min"),
    ] {
        assert_eq!(shown(&unit, property), value, "{property}");
    }
    assert!(shown(&unit, "After").contains("sockets.target"));
}

#[test]
fn a_subgroup_is_the_containers_own_below_its_scope() {
    let mut bundle = managed!();
    bundle.set("/annotations", json!({"run.oci.systemd.subgroup": "container"}));
    bundle.set("/linux/resources", json!({"memory": {"limit": 67_108_864}, "pids": {"limit": 20}}));
    running(&mut bundle);
    if !unified() {
        // As with crun: there is nothing to protect from systemd where it does not move processes.
        assert!(!group(&bundle).join("container").exists());
        return;
    }
    assert_eq!(file(&bundle, "cgroup.procs"), "");
    assert_eq!(file(&bundle, "container/cgroup.procs"), bundle.pid().to_string());
    assert_eq!(file(&bundle, "container/memory.max"), "67108864");
    assert_eq!(shown(&unit(&bundle), "MemoryMax"), "67108864");
    assert_eq!(bundle.exec(&["/bin/cat", "/proc/self/cgroup"]).ok().stdout(), "0::/\n");
    bundle.verb("delete", &["--force"]).ok();
    assert_no_unit(&bundle);
}

#[test]
fn a_limit_of_few_processes_does_not_keep_the_first_from_being_born() {
    for limit in [0, 1] {
        let mut bundle = managed!();
        bundle.set("/linux/resources", json!({"pids": {"limit": limit}}));
        running(&mut bundle);
        assert_eq!(file(&bundle, "pids.max"), limit.to_string());
        assert_eq!(shown(&unit(&bundle), "TasksMax"), "1");
    }
}

/// Needs no systemd: whatever is said to be its bus is asked.
#[test]
fn without_a_bus_create_says_so_and_leaves_nothing() {
    let mut bundle = bundle!();
    bundle.unset("/linux", "cgroupsPath");
    bundle.write_config();
    let create = |address: &str| {
        let call: Call = bundle.call(["--systemd-cgroup", "create", "--bundle"]).arg(bundle.path());
        call.arg(&bundle.id).env("DBUS_SYSTEM_BUS_ADDRESS", address).output()
    };
    create("unix:path=/nowhere/bus")
        .refused(1, &["--systemd-cgroup", "/nowhere/bus: No such file or directory"]);
    bundle.assert_nothing_left("a create without a bus");

    let socket = bundle.scratch().join("bus");
    let listener = UnixListener::bind(&socket).expect("listen");
    let rude = std::thread::spawn(move || {
        let (mut peer, _) = listener.accept().expect("accept");
        assert!(peer.read(&mut [0; 64]).expect("read") > 0);
        peer.write_all(b"REJECTED EXTERNAL\r\n").expect("write");
    });
    let start = Instant::now();
    create(&format!("unix:path={}", socket.display())).refused(1, &["refuses us: REJECTED EXTERNAL"]);
    assert!(start.elapsed().as_secs() < 10);
    rude.join().expect("the rude bus");
    bundle.assert_nothing_left("a create with a rude bus");
}

#[test]
fn a_path_that_is_no_slice_and_name_is_refused_by_its_place() {
    let mut bundle = bundle!();
    for path in ["/plain/path", "a/b.slice:x:y", "system.slice:x:y.slice"] {
        bundle.set("/linux/cgroupsPath", json!(path));
        create(&bundle).refused(1, &["config.json: linux.cgroupsPath: "]);
        bundle.assert_nothing_left("a create with a wrong path");
    }
}

/// Runs a line of bash as an ordinary user below its own systemd; `$C` is the runtime with its state root.
fn as_user(bundle: &Bundle, line: &str) -> std::process::Output {
    Command::new("as-user").args(["bash", "-c", &script(bundle, line)]).output().expect("run as-user")
}

/// The same from a session such as a login's, whose group is root's.
fn in_session(bundle: &Bundle, line: &str) -> std::process::Output {
    let line = script(bundle, &format!("export XDG_RUNTIME_DIR=/run/user/$UID; {line}"));
    Command::new("su").args(["-", "testuser", "-s", "/bin/bash", "-c", &line]).output().expect("run su")
}

fn script(bundle: &Bundle, line: &str) -> String {
    let corten = bundle.copy_of_runtime();
    format!("set -e; C='{} --root /tmp/{}'; {line}", corten.display(), bundle.id)
}

fn remove_state_root(bundle: &Bundle) {
    // Not every command comes so far as to make it.
    let _ = fs::remove_dir_all(format!("/tmp/{}", bundle.id));
}

/// The configuration that `spec --rootless` writes, for the user of `as_user`.
fn rootless(bundle: &mut Bundle) {
    let spec = Call::new(&bundle.runtime, &bundle.scratch()).args(["spec", "--rootless", "--bundle"]);
    let rootless = bundle.scratch().join("rootless");
    fs::create_dir(&rootless).expect("make a directory");
    // As root it would be root's; the ids of the user are put in.
    spec.arg(&rootless).output().ok();
    let mut config: Value =
        serde_json::from_slice(&fs::read(rootless.join("config.json")).expect("read")).expect("JSON");
    for map in ["uidMappings", "gidMappings"] {
        config["linux"][map] = json!([{"containerID": 0, "hostID": 1000, "size": 1}]);
    }
    config["process"]["terminal"] = json!(false);
    config["linux"]["cgroupsPath"] = json!(format!(":t:{}", bundle.id));
    bundle.config = config;
}

/// Whether there is an ordinary user with a systemd that has groups to give, which is so on v2 only.
fn has_users_manager() -> bool {
    unified() && Path::new("/usr/local/bin/as-user").exists()
}

#[test]
fn a_users_container_is_a_scope_of_the_users_systemd() {
    let mut bundle = managed!();
    if !has_users_manager() {
        skip!("no unprivileged user with a systemd of its own (as-user)");
    }
    rootless(&mut bundle);
    bundle.set("/linux/resources", json!({"memory": {"limit": 67_108_864}, "pids": {"limit": 20}}));
    bundle.args(&["/bin/sleep", "600"]);
    bundle.write_config();
    let (id, unit, path) = (&bundle.id, unit(&bundle), bundle.path());
    let output = as_user(
        &bundle,
        &format!(
            "$C --systemd-cgroup create --bundle {path} {id} < /dev/null > /dev/null; \
             trap '$C delete --force {id}' EXIT; $C start {id}; \
             show() {{ systemctl --user show --value -p $1 {unit}; }}; \
             G=/sys/fs/cgroup$(show ControlGroup); show ActiveState; show MemoryMax; show TasksMax; \
             cat $G/memory.max $G/pids.max; \
             $C exec {id} /bin/sh -c 'read a < /proc/self/cgroup; echo $a'; \
             $C update --pids-limit 30 {id}; show TasksMax; cat $G/pids.max; \
             $C pause {id}; $C state {id} | grep -o paused; $C resume {id}; \
             trap - EXIT; $C delete --force {id}; show ActiveState; \
             if [ -e $G ]; then echo left; fi; ls /tmp/{id}",
            path = path.display()
        ),
    );
    let said = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    let expected = "active\n67108864\n20\n67108864\n20\n0::/\n30\n30\npaused\ninactive\n";
    assert_eq!(said, expected, "{errors}");
    remove_state_root(&bundle);
}

#[test]
fn a_user_on_v1_hears_that_its_systemd_has_no_groups_to_give() {
    let mut bundle = managed!();
    if unified() || !Path::new("/usr/local/bin/as-user").exists() {
        skip!("no unprivileged user with a systemd of its own on cgroup v1");
    }
    rootless(&mut bundle);
    bundle.write_config();
    let (id, path) = (&bundle.id, bundle.path());
    let line =
        format!("$C --systemd-cgroup run --bundle {} {id} || ls /tmp/{id} 2> /dev/null", path.display());
    let output = as_user(&bundle, &line);
    let errors = String::from_utf8_lossy(&output.stderr);
    // It is about the host and the option, and no line of the configuration is to blame.
    let starts = errors.starts_with("--systemd-cgroup: on cgroup v1");
    assert!(starts && errors.lines().count() == 1, "{errors}");
    assert_eq!(String::from_utf8_lossy(&output.stdout), "");
    remove_state_root(&bundle);
}

/// A container by files, made from within what is delegated to the user, and one of the user's systemd.
#[test]
fn a_user_in_a_session_has_systemd_move_its_processes_or_hears_how_to_get_into_a_group() {
    let mut bundle = managed!();
    if !has_users_manager() {
        skip!("no unprivileged user with a systemd of its own (as-user)");
    }
    rootless(&mut bundle);
    bundle.args(&["/bin/sleep", "600"]);
    let (id, path) = (bundle.id.clone(), bundle.path());
    bundle.unset("/linux", "cgroupsPath");
    bundle.write_config();
    // What the container holds open is not to be waited for.
    let run = format!("run --detach --bundle {} < /dev/null > /dev/null 2>&1", path.display());
    let output = as_user(&bundle, &format!("$C {run} {id}"));
    assert!(output.status.success(), "{output:?}");
    let output = in_session(
        &bundle,
        &format!(
            "cut -d/ -f4 < /proc/self/cgroup | sed 's/-.*//'; trap '$C delete --force {id}; $C delete --force {id}-2' EXIT; \
             $C exec {id} /bin/true || echo $?; \
             systemd-run --user --scope --quiet $C exec {id} /bin/cat /proc/self/cgroup; \
             $C --systemd-cgroup {run} {id}-2; $C exec {id}-2 /bin/cat /proc/self/cgroup; \
             $C update --pids-limit 30 {id}-2; \
             cat /sys/fs/cgroup$(systemctl --user show --value -p ControlGroup corten-{id}-2.scope)/pids.max",
        ),
    );
    let errors = String::from_utf8_lossy(&output.stderr);
    let said = String::from_utf8_lossy(&output.stdout);
    assert_eq!(said, "session\n255\n0::/\n0::/\n30\n", "{errors}");
    assert_eq!(errors.lines().count(), 1, "{errors}");
    for words in ["may not enter from here", "systemd-run --user --scope"] {
        assert!(errors.contains(words), "{errors}");
    }
    remove_state_root(&bundle);
}

#[test]
fn a_user_without_a_bus_hears_which_variables_are_missing() {
    let mut bundle = managed!();
    if !has_users_manager() {
        skip!("no unprivileged user with a systemd of its own (as-user)");
    }
    rootless(&mut bundle);
    bundle.write_config();
    let line = format!(
        "unset DBUS_SESSION_BUS_ADDRESS XDG_RUNTIME_DIR; $C --systemd-cgroup create --bundle {} {}; echo $?",
        bundle.path().display(),
        bundle.id
    );
    let output = as_user(&bundle, &line);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(errors.contains("neither DBUS_SESSION_BUS_ADDRESS nor XDG_RUNTIME_DIR is set"), "{errors}");
    remove_state_root(&bundle);
}
