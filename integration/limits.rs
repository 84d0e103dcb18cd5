//! Limits, each looked at twice: what its file says, and what a process feels of it.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::bundle::{Bundle, bundle, skip};
use crate::call::eventually;
use crate::cgroups::{hierarchy, on_v2, unified};
use crate::traces::hierarchies;

/// What a version of cgroups makes of a limit.
enum Becomes {
    File(&'static str, &'static str),
    /// The specification gives it no meaning here: the container comes up without it.
    Nothing,
    /// It cannot be had, and the error names the field.
    Refused(&'static str),
}
use Becomes::{File, Nothing, Refused};

/// Where it stands in `linux.resources`, its controller, and what becomes of it on v1 and on v2.
type Limit = (&'static str, &'static str, Becomes, Becomes);

const LIMITS: &[Limit] = &[
    (r#"{"cpu": {"shares": 512}}"#, "cpu", File("cpu.shares", "512"), File("cpu.weight", "59")),
    (r#"{"cpu": {"shares": 1024}}"#, "cpu", File("cpu.shares", "1024"), File("cpu.weight", "100")),
    (
        r#"{"cpu": {"quota": 50000, "period": 200000}}"#,
        "cpu",
        File("cpu.cfs_quota_us", "50000"),
        File("cpu.max", "50000 200000"),
    ),
    (
        r#"{"cpu": {"period": 200000}}"#,
        "cpu",
        File("cpu.cfs_period_us", "200000"),
        File("cpu.max", "max 200000"),
    ),
    (r#"{"cpu": {"quota": -1}}"#, "cpu", File("cpu.cfs_quota_us", "-1"), File("cpu.max", "max 100000")),
    (
        r#"{"cpu": {"quota": 50000, "burst": 20000}}"#,
        "cpu",
        File("cpu.cfs_burst_us", "20000"),
        File("cpu.max.burst", "20000"),
    ),
    (r#"{"cpu": {"idle": 1}}"#, "cpu", File("cpu.idle", "1"), File("cpu.idle", "1")),
    (
        r#"{"cpu": {"realtimeRuntime": 1000, "realtimePeriod": 500000}}"#,
        "cpu",
        File("cpu.rt_period_us", "500000"),
        Refused("cpu.realtimePeriod"),
    ),
    (
        r#"{"cpu": {"realtimeRuntime": 1000}}"#,
        "cpu",
        File("cpu.rt_runtime_us", "1000"),
        Refused("cpu.realtimeRuntime"),
    ),
    (r#"{"cpu": {"cpus": "0"}}"#, "cpuset", File("cpuset.cpus", "0"), File("cpuset.cpus", "0")),
    (r#"{"cpu": {"mems": "0"}}"#, "cpuset", File("cpuset.mems", "0"), File("cpuset.mems", "0")),
    (
        r#"{"memory": {"limit": 67108864}}"#,
        "memory",
        File("memory.limit_in_bytes", "67108864"),
        File("memory.max", "67108864"),
    ),
    (
        r#"{"memory": {"limit": -1}}"#,
        "memory",
        File("memory.limit_in_bytes", "9223372036854771712"),
        File("memory.max", "max"),
    ),
    (
        r#"{"memory": {"reservation": 33554432}}"#,
        "memory",
        File("memory.soft_limit_in_bytes", "33554432"),
        File("memory.low", "33554432"),
    ),
    (
        r#"{"memory": {"limit": 33554432, "swap": 67108864}}"#,
        "memory",
        File("memory.memsw.limit_in_bytes", "67108864"),
        File("memory.swap.max", "33554432"),
    ),
    (
        r#"{"memory": {"kernelTCP": 8388608}}"#,
        "memory",
        File("memory.kmem.tcp.limit_in_bytes", "8388608"),
        Nothing,
    ),
    (
        r#"{"memory": {"swappiness": 30}}"#,
        "memory",
        File("memory.swappiness", "30"),
        Refused("memory.swappiness"),
    ),
    (
        r#"{"memory": {"disableOOMKiller": true}}"#,
        "memory",
        File("memory.oom_control", "oom_kill_disable 1\nunder_oom 0\noom_kill 0"),
        Refused("memory.disableOOMKiller"),
    ),
    (r#"{"memory": {"useHierarchy": true}}"#, "memory", File("memory.use_hierarchy", "1"), Nothing),
    (r#"{"pids": {"limit": 17}}"#, "pids", File("pids.max", "17"), File("pids.max", "17")),
    (r#"{"pids": {"limit": -1}}"#, "pids", File("pids.max", "max"), File("pids.max", "max")),
    (r#"{"pids": {"limit": 0}}"#, "pids", File("pids.max", "0"), File("pids.max", "0")),
    (r#"{"pids": {}}"#, "pids", File("pids.max", "max"), File("pids.max", "max")),
    (r#"{"pids": {"limit": null}}"#, "pids", File("pids.max", "max"), File("pids.max", "max")),
    (
        r#"{"hugepageLimits": [{"pageSize": "2MB", "limit": 4194304}]}"#,
        "hugetlb",
        File("hugetlb.2MB.limit_in_bytes", "4194304"),
        File("hugetlb.2MB.max", "4194304"),
    ),
    (
        r#"{"hugepageLimits": [{"pageSize": "2MB", "limit": 4194304}]}"#,
        "hugetlb",
        File("hugetlb.2MB.rsvd.limit_in_bytes", "4194304"),
        File("hugetlb.2MB.rsvd.max", "4194304"),
    ),
    (
        r#"{"network": {"classID": 1048577}}"#,
        "net_cls",
        File("net_cls.classid", "1048577"),
        Refused("network.classID"),
    ),
    (
        r#"{"network": {"priorities": [{"name": "lo", "priority": 5}]}}"#,
        "net_prio",
        File("net_prio.ifpriomap", "lo 5"),
        Refused("network.priorities"),
    ),
    (
        r#"{"unified": {"memory.high": "50331648"}}"#,
        "memory",
        Refused("unified[\"memory.high\"]"),
        File("memory.high", "50331648"),
    ),
];

#[test]
fn limits_are_written_to_their_files() {
    let mut missing = Vec::new();
    for (resources, controller, v1, v2) in LIMITS {
        let Some(hierarchy) = hierarchy(controller).or_else(|| unified().then(|| hierarchies().remove(0)))
        else {
            missing.push(*controller);
            continue;
        };
        let mut bundle = bundle!();
        bundle.set("/linux/resources", serde_json::from_str(resources).unwrap());
        let created = bundle.create();
        match if on_v2(controller) { v2 } else { v1 } {
            Refused(field) => drop(created.refused(1, &["linux.resources.", field])),
            Nothing => drop(created.ok()),
            File(file, value) => match fs::read_to_string(hierarchy.join(&bundle.id).join(file)) {
                Ok(text) if text.trim() == *value => drop(created.ok()),
                // A line for each device.
                Ok(text) => assert!(text.lines().any(|line| line == *value), "{resources}: {text}"),
                Err(_) => missing.push(file),
            },
        }
    }
    if !missing.is_empty() {
        skip!("the others hold, but this machine has no {}", missing.join(", "));
    }
}

/// The first of these files that a group of this host has.
fn first_of<'a>(controller: &str, files: &[&'a str]) -> Option<&'a str> {
    let probe = hierarchy(controller)?.join(format!("corten-test-{}-probe", std::process::id()));
    fs::create_dir(&probe).unwrap();
    let found = files.iter().find(|file| probe.join(file).exists()).copied();
    fs::remove_dir(&probe).unwrap();
    found
}

#[test]
fn the_weight_in_block_io_is_in_the_file_that_the_kernel_has() {
    // Who has the scheduler as a module has its files only then.
    let _ = Command::new("modprobe").args(["-q", "bfq"]).status();
    let (controller, files) = match unified() {
        true => ("io", ["io.bfq.weight", "io.weight"]),
        false => ("blkio", ["blkio.weight", "blkio.bfq.weight"]),
    };
    let mut bundle = bundle!();
    bundle.set("/linux/resources/blockIO", json!({"weight": 500}));
    let created = bundle.create();
    match first_of(controller, &files) {
        None => drop(created.refused(1, &["linux.resources.blockIO.weight", files[1]])),
        Some(file) => {
            let path = hierarchy(controller).unwrap().join(&bundle.id).join(file);
            let text = fs::read_to_string(path).unwrap();
            let weight = if file == "io.weight" { "4950" } else { "500" };
            assert_eq!(text.split_whitespace().next_back(), Some(weight), "{file}");
            bundle.verb("update", &["--blkio-weight", "100"]).ok();
        }
    }
}

#[test]
fn kernel_memory_is_limited_or_refused_and_on_v2_means_nothing() {
    if hierarchy("memory").is_none() {
        skip!("no memory controller");
    }
    let mut bundle = bundle!();
    bundle.set("/linux/resources/memory", json!({"kernel": 33_554_432}));
    let created = bundle.create();
    if on_v2("memory") {
        created.ok();
    } else if created.code() == 0 {
        let file = hierarchy("memory").unwrap().join(&bundle.id).join("memory.kmem.limit_in_bytes");
        assert_eq!(fs::read_to_string(file).unwrap(), "33554432\n");
    } else {
        // Linux 5.16 and later have no such limit, though some take a value for it.
        created.refused(1, &["linux.resources.memory.kernel", "memory.kmem.limit_in_bytes"]);
    }
}

/// The block device below a directory that is on one, as `major:minor` of the whole device or its partition.
fn device_below(directory: &Path) -> Option<(u64, u64)> {
    let device = fs::metadata(directory).ok()?.dev();
    let (major, minor) = (nix::sys::stat::major(device), nix::sys::stat::minor(device));
    Path::new(&format!("/sys/dev/block/{major}:{minor}")).exists().then_some((major, minor))
}

const THROTTLES: [(&str, [&str; 2], &str); 4] = [
    ("throttleReadBpsDevice", ["blkio.throttle.read_bps_device", "rbps"], "1048576"),
    ("throttleWriteBpsDevice", ["blkio.throttle.write_bps_device", "wbps"], "1048576"),
    ("throttleReadIOPSDevice", ["blkio.throttle.read_iops_device", "riops"], "100"),
    ("throttleWriteIOPSDevice", ["blkio.throttle.write_iops_device", "wiops"], "100"),
];

#[test]
fn each_throttle_of_a_block_device_is_in_its_file() {
    let Some((major, minor)) = device_below(Path::new("/")) else {
        skip!("the root is not on a block device");
    };
    let Some(hierarchy) = hierarchy(if unified() { "io" } else { "blkio" }) else {
        skip!("no block I/O controller");
    };
    for (field, [v1, v2], rate) in THROTTLES {
        let mut bundle = bundle!();
        let rate_of_device = json!([{"major": major, "minor": minor, "rate": rate.parse::<u64>().unwrap()}]);
        bundle.set(&format!("/linux/resources/blockIO/{field}"), rate_of_device);
        bundle.create().ok();
        let (file, expected) = match unified() {
            true => ("io.max", format!("{v2}={rate}")),
            false => (v1, format!("{major}:{minor} {rate}")),
        };
        let text = fs::read_to_string(hierarchy.join(&bundle.id).join(file)).unwrap();
        assert!(text.contains(&expected), "{field}: {text}");
    }
}

#[test]
fn reads_and_writes_are_throttled() {
    let Ok(volume) = tempfile::tempdir_in("/var/tmp") else {
        skip!("no /var/tmp");
    };
    let Some((major, minor)) = device_below(volume.path()) else {
        skip!("/var/tmp is not on a block device");
    };
    if hierarchy(if unified() { "io" } else { "blkio" }).is_none() {
        skip!("no block I/O controller");
    }
    fs::write(volume.path().join("file"), vec![7; 3 << 20]).unwrap();
    fs::File::open(volume.path().join("file")).unwrap().sync_all().unwrap();
    // 3 MiB at 1 MiB/s, or 300 blocks at 100 a second; some of the first second is free.
    for ((field, _, rate), transfer) in THROTTLES.iter().zip([
        "if=/volume/file of=/dev/null bs=64k count=48 iflag=direct",
        "if=/dev/zero of=/volume/file bs=64k count=48 oflag=direct",
        "if=/volume/file of=/dev/null bs=4k count=300 iflag=direct",
        "if=/dev/zero of=/volume/file bs=4k count=300 oflag=direct",
    ]) {
        let mut bundle = bundle!();
        bundle.mount(json!({"destination": "/volume", "source": volume.path(), "options": ["bind"]}));
        let rate = json!([{"major": major, "minor": minor, "rate": rate.parse::<u64>().unwrap()}]);
        bundle.set(&format!("/linux/resources/blockIO/{field}"), rate);
        bundle.shell(&format!("dd {transfer}"));
        let begin = Instant::now();
        bundle.run().ok();
        assert!(begin.elapsed() > Duration::from_millis(1800), "{field}: took {:?}", begin.elapsed());
    }
}

/// A block device of this test's own, whose requests BFQ sorts.
struct Disk(String);

impl Disk {
    /// The reason why there is none.
    fn new(directory: &Path) -> Result<Disk, String> {
        let image = directory.join("disk");
        fs::File::create(&image).unwrap().set_len(64 << 20).unwrap();
        // Where they are built in there is nothing to load.
        let _ = Command::new("modprobe").args(["-qa", "loop", "bfq"]).status();
        let output = Command::new("losetup").args(["--find", "--show"]).arg(&image).output();
        let output = output.map_err(|error| format!("losetup: {error}"))?;
        if !output.status.success() {
            return Err(String::from_utf8_lossy(&output.stderr).trim().to_string());
        }
        let disk = Disk(String::from_utf8_lossy(&output.stdout).trim().to_string());
        let name = disk.0.trim_start_matches("/dev/");
        let queue = Path::new("/sys/block").join(name).join("queue");
        fs::write(queue.join("scheduler"), "bfq")
            .map_err(|error| format!("the kernel has no BFQ ({error})"))?;
        // Weights and nothing else: not who has just begun, nor who has nothing to ask for a moment.
        fs::write(queue.join("iosched/low_latency"), "0").unwrap();
        fs::write(queue.join("iosched/strict_guarantees"), "1").unwrap();
        Ok(disk)
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // The test has said what is wrong, if something is.
        let _ = Command::new("losetup").arg("--detach").arg(&self.0).status();
    }
}

#[test]
fn the_weight_of_a_device_that_bfq_serves_is_in_its_file() {
    let mut bundle = bundle!();
    let disk = match Disk::new(&bundle.scratch()) {
        Ok(disk) => disk,
        Err(reason) => skip!("{reason}"),
    };
    let (controller, file) = match unified() {
        true => ("io", "io.bfq.weight"),
        false => ("blkio", "blkio.bfq.weight_device"),
    };
    if first_of(controller, &[file]).is_none() {
        skip!("this machine has no {file}");
    }
    let device = fs::metadata(&disk.0).unwrap().rdev();
    let (major, minor) = (nix::sys::stat::major(device), nix::sys::stat::minor(device));
    let of_the_device = json!([{"major": major, "minor": minor, "weight": 700}]);
    bundle.set("/linux/resources/blockIO", json!({"weight": 300, "weightDevice": of_the_device}));
    bundle.create().ok();
    let text = fs::read_to_string(hierarchy(controller).unwrap().join(&bundle.id).join(file)).unwrap();
    assert_eq!(text, format!("default 300\n{major}:{minor} 700\n"));
}

/// How much the processes of a group have read from a disk, in bytes.
fn bytes_read(group: &Path, device: &str) -> u64 {
    let (file, key) = match unified() {
        true => ("io.stat", "rbytes="),
        false => ("blkio.bfq.io_service_bytes", "Read "),
    };
    let text = fs::read_to_string(group.join(file)).unwrap();
    let line = text.lines().find(|line| line.starts_with(device) && line.contains(key));
    let number = line.and_then(|line| line.split_once(key)?.1.split(' ').next()?.parse().ok());
    number.unwrap_or(0)
}

#[test]
fn of_two_that_read_from_one_disk_the_heavier_reads_more() {
    let mut bundles = [bundle!(), Bundle::new()];
    let disk = match Disk::new(&bundles[0].scratch()) {
        Ok(disk) => disk,
        Err(reason) => skip!("{reason}"),
    };
    let (controller, file) = if unified() { ("io", "io.bfq.weight") } else { ("blkio", "blkio.bfq.weight") };
    if first_of(controller, &[file]).is_none() {
        skip!("this machine has no {file}");
    }
    let device = fs::metadata(&disk.0).unwrap().rdev();
    let (major, minor) = (nix::sys::stat::major(device), nix::sys::stat::minor(device));
    for (bundle, weight) in bundles.iter_mut().zip([1000, 100]) {
        let allow = json!([{"allow": true, "type": "b", "major": major, "minor": minor, "access": "r"}]);
        bundle.set(
            "/linux/devices",
            json!([{"path": "/dev/disk", "type": "b", "major": major, "minor": minor}]),
        );
        bundle.set("/linux/resources", json!({"devices": allow, "blockIO": {"weight": weight}}));
        bundle.shell("while dd if=/dev/disk of=/dev/null bs=1M iflag=direct; do :; done");
        bundle.create().ok();
    }
    bundles.iter().for_each(|bundle| drop(bundle.start().ok()));
    let read = || {
        let group = |bundle: &Bundle| hierarchy(controller).unwrap().join(&bundle.id);
        bundles.each_ref().map(|bundle| bytes_read(&group(bundle), &format!("{major}:{minor} ")))
    };
    let before = eventually("both read", || Some(read()).filter(|read| read.iter().all(|read| *read > 0)));
    let [heavy, light] = eventually("they read a while", || {
        let read = read();
        let since = [read[0] - before[0], read[1] - before[1]];
        (since[0] + since[1] > 512 << 20).then_some(since)
    });
    bundles.iter().for_each(|bundle| drop(bundle.verb("delete", &["--force"]).ok()));
    assert!(heavy > light * 3 / 2, "the one with ten times the weight read {heavy} bytes, the other {light}");
}

#[test]
fn a_busy_process_is_throttled_to_its_quota() {
    let Some(hierarchy) = hierarchy("cpu") else {
        skip!("no cpu controller");
    };
    let mut bundle = bundle!();
    bundle.set("/linux/resources/cpu", json!({"quota": 10_000, "period": 100_000}));
    bundle.shell("echo ready; while :; do :; done");
    bundle.create().ok();
    bundle.start().ok();
    let stat = hierarchy.join(&bundle.id).join("cpu.stat");
    eventually("the group is throttled", || (counter(&stat, "nr_throttled") >= 3).then_some(()));
}

/// The number after a name in a file of a group, one on a line.
fn counter(file: &Path, name: &str) -> u64 {
    let text = fs::read_to_string(file).unwrap();
    let number = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    number.unwrap_or_else(|| panic!("no {name} in {}", file.display())).parse().unwrap()
}

/// What each of two has used of the one processor that both are busy on, in nanoseconds.
fn rivals(mut bundles: [Bundle; 2], limits: [Value; 2]) -> [u64; 2] {
    for (bundle, cpu) in bundles.iter_mut().zip(limits) {
        bundle.set("/linux/resources/cpu", cpu).set("/linux/resources/cpu/cpus", json!("0"));
        bundle.shell("while :; do :; done");
        bundle.create().ok();
    }
    bundles.iter().for_each(|bundle| drop(bundle.start().ok()));
    let used = || {
        bundles.each_ref().map(|bundle| {
            let event = bundle.verb("events", &["--stats"]).ok().json();
            event["data"]["cpu"]["usage"]["total"].as_u64().expect("a time")
        })
    };
    let before = used();
    let since = eventually("they have been busy for a while", || {
        let now = used();
        let since = [now[0] - before[0], now[1] - before[1]];
        (since[0] + since[1] > 2_000_000_000).then_some(since)
    });
    bundles.iter().for_each(|bundle| drop(bundle.verb("delete", &["--force"]).ok()));
    since
}

#[test]
fn of_two_on_one_processor_the_greater_share_gets_more() {
    if hierarchy("cpu").is_none() || hierarchy("cpuset").is_none() {
        skip!("no cpu and cpuset controllers");
    }
    let [more, less] = rivals([bundle!(), Bundle::new()], [json!({"shares": 8192}), json!({"shares": 1024})]);
    assert!(more > less * 3, "with eight times the shares {more} ns, the other {less}");
}

#[test]
fn who_is_idle_gets_what_others_leave() {
    let bundles = [bundle!(), Bundle::new()];
    if first_of("cpu", &["cpu.idle"]).is_none() || hierarchy("cpuset").is_none() {
        skip!("no cpu.idle, or no cpuset controller");
    }
    let [busy, idle] = rivals(bundles, [json!({}), json!({"idle": 1})]);
    assert!(busy > idle * 10, "{busy} ns, and {idle} of who is idle");
}

#[test]
fn memory_is_reclaimed_above_its_high_mark() {
    let Some(hierarchy) = hierarchy("memory").filter(|_| on_v2("memory")) else {
        skip!("only cgroup v2 has memory.high");
    };
    let mut bundle = bundle!();
    bundle.set("/linux/resources/memory", json!({"limit": 67_108_864, "swap": 67_108_864}));
    bundle.set("/linux/resources/unified", json!({"memory.high": "8388608"}));
    bundle.shell("tail /dev/zero");
    bundle.create().ok();
    bundle.start().ok();
    let events = hierarchy.join(&bundle.id).join("memory.events");
    eventually("it is held back", || (counter(&events, "high") > 0).then_some(()));
    bundle.verb("delete", &["--force"]).ok();
}

#[test]
fn too_much_memory_ends_the_process() {
    if hierarchy("memory").is_none() {
        skip!("no memory controller");
    }
    let mut bundle = bundle!();
    bundle.set("/linux/resources/memory", json!({"limit": 16_777_216, "swap": 16_777_216}));
    // A line without end: tail keeps all of it.
    bundle.shell("tail /dev/zero; echo $?");
    assert!(bundle.run().ok().stdout().contains("137"));
}

#[test]
fn without_the_oom_killer_a_process_waits_for_memory_until_it_is_killed() {
    let Some(hierarchy) = hierarchy("memory").filter(|_| !on_v2("memory")) else {
        skip!("nobody can do without the OOM killer but a v1 group");
    };
    for by_force in [false, true] {
        let mut bundle = bundle!();
        let memory = json!({"limit": 16_777_216, "swap": 16_777_216, "disableOOMKiller": true});
        bundle.set("/linux/resources/memory", memory);
        // It touches its memory itself: what the kernel writes there fails and does not wait.
        bundle.shell("text=longer; while :; do text=$text$text; done");
        bundle.create().ok();
        bundle.start().ok();
        let control = hierarchy.join(&bundle.id).join("memory.oom_control");
        eventually("it waits", || {
            fs::read_to_string(&control).unwrap().contains("under_oom 1\noom_kill 0").then_some(())
        });
        bundle.assert_status("running");
        if by_force {
            bundle.verb("delete", &["--force"]).ok();
        } else {
            bundle.kill("KILL").ok();
        }
        assert_eq!(bundle.wait(), 128 + 9);
    }
}

#[test]
fn too_many_processes_are_not_forked() {
    if hierarchy("pids").is_none() {
        skip!("no pids controller");
    }
    let mut bundle = bundle!();
    bundle.set("/linux/resources/pids/limit", json!(2));
    bundle.shell("sleep 60 & sleep 60 & echo both");
    let output = bundle.run();
    assert_ne!(output.code(), 0, "{output}");
    assert!(output.stderr.contains("fork"), "{output}");
}

#[test]
fn a_cpuset_narrows_the_cpus_of_the_process() {
    if hierarchy("cpuset").is_none() {
        skip!("no cpuset controller");
    }
    let mut bundle = bundle!();
    bundle.set("/linux/resources/cpu/cpus", json!("0"));
    assert_eq!(bundle.report()["affinity"], json!([0]));
}

/// Some huge pages for a test, and what there was before when it ends.
struct HugePages(String);

impl HugePages {
    const FILE: &str = "/proc/sys/vm/nr_hugepages";

    fn reserve(number: u32) -> Option<HugePages> {
        let before = HugePages(fs::read_to_string(Self::FILE).ok()?);
        fs::write(Self::FILE, number.to_string()).ok()?;
        let now = fs::read_to_string(Self::FILE).ok()?;
        (now.trim().parse::<u32>().ok()? >= number).then_some(before)
    }
}

impl Drop for HugePages {
    fn drop(&mut self) {
        // As above.
        let _ = fs::write(Self::FILE, &self.0);
    }
}

#[test]
fn huge_pages_beyond_the_limit_are_refused() {
    if hierarchy("hugetlb").is_none() {
        skip!("no hugetlb controller");
    }
    let Some(_pages) = HugePages::reserve(4) else {
        skip!("the kernel gives no huge pages");
    };
    for (limit, outcome) in [(4 << 20, "ok\n"), (2 << 20, "ENOMEM\n")] {
        let mut bundle = bundle!();
        bundle.set("/linux/resources/hugepageLimits", json!([{"pageSize": "2MB", "limit": limit}]));
        bundle.args(&["/witness", "huge-pages", "2"]);
        assert_eq!(bundle.run().ok().stdout(), outcome, "{limit}");
    }
}

#[test]
fn unified_names_files_of_the_group() {
    let v2 = hierarchies().into_iter().find(|one| one.join("cgroup.controllers").exists());
    let Some(v2) = v2 else { skip!("no cgroup v2") };
    let mut bundle = bundle!();
    bundle.set("/linux/resources/unified", json!({"cgroup.max.depth": "3"}));
    bundle.create().ok();
    let depth = fs::read_to_string(v2.join(&bundle.id).join("cgroup.max.depth")).unwrap();
    assert_eq!(depth, "3\n");
}
