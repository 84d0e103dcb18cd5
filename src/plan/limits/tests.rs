//! The table, against hosts of every kind.

use super::super::cgroup::Hierarchy;
use super::*;

fn hierarchy(controllers: &str) -> Hierarchy {
    Hierarchy {
        controllers: controllers.split(',').map(String::from).collect(),
        directory: controllers.into(),
    }
}

fn v1() -> CgroupLayout {
    let all = [
        "cpu,cpuacct",
        "cpuset",
        "memory",
        "devices",
        "blkio",
        "pids",
        "hugetlb",
        "net_cls,net_prio",
        "rdma",
    ];
    CgroupLayout { v1: all.map(hierarchy).to_vec(), ..CgroupLayout::default() }
}

fn v2() -> CgroupLayout {
    let unified = hierarchy("cpuset,cpu,io,memory,hugetlb,pids,rdma,misc");
    CgroupLayout { v2: Some(unified), ..CgroupLayout::default() }
}

fn hybrid() -> CgroupLayout {
    CgroupLayout { v2: Some(hierarchy("hugetlb")), ..CgroupLayout { v1: vec![hierarchy("memory")], ..v1() } }
}

fn ask(layout: &CgroupLayout, json: &str) -> Result<Vec<Setting>> {
    settings(&serde_json::from_str(json).unwrap(), layout)
}

fn lines(layout: &CgroupLayout, json: &str) -> Vec<String> {
    ask(layout, json).unwrap().iter().map(Setting::to_string).collect()
}

fn refusal(layout: &CgroupLayout, json: &str) -> String {
    format!("{:#}", ask(layout, json).unwrap_err())
}

/// What is written on v1 and on v2.
fn check(json: &str, on_v1: &[&str], on_v2: &[&str]) {
    assert_eq!(lines(&v1(), json), on_v1, "v1: {json}");
    assert_eq!(lines(&v2(), json), on_v2, "v2: {json}");
}

#[test]
fn cpu_limits_are_written_in_the_terms_of_the_host() {
    check(r#"{"cpu": {"shares": 1024}}"#, &["cpu.shares 1024"], &["cpu.weight 100"]);
    check(r#"{"cpu": {"shares": 0, "quota": 0, "period": 0}}"#, &[], &[]);
    check(
        r#"{"cpu": {"quota": 50000, "period": 100000, "burst": 1000}}"#,
        &["cpu.cfs_period_us 100000", "cpu.cfs_quota_us 50000", "cpu.cfs_burst_us 1000"],
        &["cpu.max 50000 100000", "cpu.max.burst 1000"],
    );
    check(r#"{"cpu": {"quota": -1}}"#, &["cpu.cfs_quota_us -1"], &["cpu.max max"]);
    check(r#"{"cpu": {"period": 1000}}"#, &["cpu.cfs_period_us 1000"], &["cpu.max max 1000"]);
    check(r#"{"cpu": {"idle": 1, "shares": 5}}"#, &["cpu.idle 1"], &["cpu.idle 1"]);
    check(
        r#"{"cpu": {"cpus": "0-1", "mems": "0"}}"#,
        &["cpuset.cpus 0-1", "cpuset.mems 0"],
        &["cpuset.cpus 0-1", "cpuset.mems 0"],
    );
    assert_eq!(
        lines(&v1(), r#"{"cpu": {"realtimePeriod": 1000000, "realtimeRuntime": 950000}}"#),
        ["cpu.rt_period_us 1000000", "cpu.rt_runtime_us 950000"]
    );
}

#[test]
fn swap_follows_memory_on_v1_and_precedes_it_on_v2() {
    check(
        r#"{"memory": {"limit": 1000, "swap": 3000, "reservation": 500}}"#,
        &["memory.limit_in_bytes 1000", "memory.memsw.limit_in_bytes 3000", "memory.soft_limit_in_bytes 500"],
        &["memory.swap.max 2000", "memory.max 1000", "memory.low 500"],
    );
    check(
        r#"{"memory": {"limit": -1}}"#,
        &["memory.limit_in_bytes -1", "memory.memsw.limit_in_bytes -1"],
        &["memory.swap.max max", "memory.max max"],
    );
    check(
        r#"{"memory": {"limit": 0, "swap": -1}}"#,
        &["memory.memsw.limit_in_bytes -1"],
        &["memory.swap.max max"],
    );
}

#[test]
fn what_v2_has_always_or_ignores_is_not_written_there() {
    check(
        r#"{"memory": {"kernel": 1, "kernelTCP": 2, "disableOOMKiller": false, "useHierarchy": true}}"#,
        &[
            "memory.kmem.limit_in_bytes 1",
            "memory.kmem.tcp.limit_in_bytes 2",
            "memory.oom_control 0",
            "memory.use_hierarchy 1",
        ],
        &[],
    );
}

#[test]
fn block_devices_have_weights_and_throttles() {
    let json = r#"{"blockIO": {
        "weight": 500,
        "weightDevice": [{"major": 8, "minor": 0, "weight": 10}],
        "throttleReadBpsDevice": [{"major": 8, "minor": 0, "rate": 1000}],
        "throttleWriteBpsDevice": [{"major": 8, "minor": 0, "rate": 0}],
        "throttleReadIOPSDevice": [{"major": 8, "minor": 0, "rate": 30}, {"major": 8, "minor": 16, "rate": 31}],
        "throttleWriteIOPSDevice": [{"major": 8, "minor": 0, "rate": 40}]}}"#;
    check(
        json,
        &[
            "blkio.weight 500",
            "blkio.weight_device 8:0 10",
            "blkio.throttle.read_bps_device 8:0 1000",
            "blkio.throttle.write_bps_device 8:0 0",
            "blkio.throttle.read_iops_device 8:0 30",
            "blkio.throttle.read_iops_device 8:16 31",
            "blkio.throttle.write_iops_device 8:0 40",
        ],
        &[
            "io.bfq.weight 500",
            "io.bfq.weight 8:0 10",
            "io.max 8:0 rbps=1000",
            "io.max 8:0 wbps=max",
            "io.max 8:0 riops=30",
            "io.max 8:16 riops=31",
            "io.max 8:0 wiops=40",
        ],
    );
    let instead = |layout: &CgroupLayout| ask(layout, json).unwrap()[1].otherwise.clone();
    let write = |file: &str, value: &str| Otherwise::Write { file: file.into(), value: value.into() };
    assert_eq!(instead(&v1()), write("blkio.bfq.weight_device", "8:0 10"));
    assert_eq!(instead(&v2()), write("io.weight", "8:0 1"));
    assert_eq!(
        lines(
            &v1(),
            r#"{"blockIO": {"leafWeight": 10, "weightDevice": [{"major": 8, "minor": 0, "leafWeight": 20}]}}"#
        ),
        ["blkio.leaf_weight 10", "blkio.leaf_weight_device 8:0 20"]
    );
}

#[test]
fn other_controllers_have_their_files() {
    check(r#"{"pids": {"limit": -1}}"#, &["pids.max max"], &["pids.max max"]);
    check(r#"{"pids": {"limit": 0}}"#, &["pids.max 0"], &["pids.max 0"]);
    check(
        r#"{"hugepageLimits": [{"pageSize": "2MB", "limit": 4194304}]}"#,
        &["hugetlb.2MB.limit_in_bytes 4194304", "hugetlb.2MB.rsvd.limit_in_bytes 4194304"],
        &["hugetlb.2MB.max 4194304", "hugetlb.2MB.rsvd.max 4194304"],
    );
    check(
        r#"{"rdma": {"mlx5_1": {"hcaHandles": 3, "hcaObjects": 10000}, "mlx4_0": {"hcaObjects": 1000}, "x": {}}}"#,
        &["rdma.max mlx4_0 hca_object=1000", "rdma.max mlx5_1 hca_handle=3 hca_object=10000"],
        &["rdma.max mlx4_0 hca_object=1000", "rdma.max mlx5_1 hca_handle=3 hca_object=10000"],
    );
    assert_eq!(
        lines(&v1(), r#"{"network": {"classID": 1048577, "priorities": [{"name": "eth0", "priority": 5}]}}"#),
        ["net_cls.classid 1048577", "net_prio.ifpriomap eth0 5"]
    );
}

#[test]
fn unified_files_are_written_line_by_line_and_last() {
    assert_eq!(
        lines(
            &v2(),
            r#"{"unified": {"misc.max": "a 1\nb 2", "cgroup.max.depth": "3", "memory.high": "5"}, "memory": {"limit": 7}}"#
        ),
        ["memory.max 7", "cgroup.max.depth 3", "memory.high 5", "misc.max a 1", "misc.max b 2"]
    );
    assert_eq!(lines(&hybrid(), r#"{"unified": {"hugetlb.2MB.max": "0"}}"#), ["hugetlb.2MB.max 0"]);
}

#[test]
fn a_hybrid_host_takes_each_limit_where_its_controller_is() {
    let settings =
        ask(&hybrid(), r#"{"memory": {"limit": 1}, "hugepageLimits": [{"pageSize": "2MB", "limit": 2}]}"#)
            .unwrap();
    let homes: Vec<_> =
        settings.iter().map(|setting| (setting.version, setting.controller.as_str())).collect();
    assert_eq!(homes, [(Version::V1, "memory"), (Version::V2, "hugetlb"), (Version::V2, "hugetlb")]);
}

#[test]
fn missing_files_matter_only_where_they_would_change_something() {
    let otherwise = |layout: &CgroupLayout, json: &str| ask(layout, json).unwrap()[0].otherwise.clone();
    let no_swap = r#"{"memory": {"limit": 5, "swap": 5}}"#;
    assert_eq!(otherwise(&v2(), no_swap), Otherwise::Skip);
    assert_eq!(otherwise(&v2(), r#"{"memory": {"swap": -1}}"#), Otherwise::Skip);
    assert_eq!(otherwise(&v2(), r#"{"memory": {"limit": 5, "swap": 6}}"#), Otherwise::Refuse);
    assert_eq!(ask(&v1(), no_swap).unwrap()[1].otherwise, Otherwise::Refuse);
}

#[test]
fn use_is_checked_only_where_it_was_asked_for() {
    let file = |json: &str| ask(&v2(), json).unwrap()[0].not_below;
    assert_eq!(file(r#"{"memory": {"limit": 5}}"#), None);
    assert_eq!(file(r#"{"memory": {"limit": 5, "checkBeforeUpdate": true}}"#), Some("memory.current"));
}

#[test]
fn what_a_host_cannot_do_is_refused_by_field_and_file() {
    for (layout, json, sentence) in [
        (
            v2(),
            r#"{"cpu": {"realtimeRuntime": 5}}"#,
            "linux.resources.cpu.realtimeRuntime: cgroup v2 does not limit realtime scheduling (no cpu.rt_runtime_us)",
        ),
        (
            v2(),
            r#"{"memory": {"swappiness": 0}}"#,
            "linux.resources.memory.swappiness: cgroup v2 has no swappiness of a group (no memory.swappiness)",
        ),
        (
            v2(),
            r#"{"memory": {"disableOOMKiller": true}}"#,
            "linux.resources.memory.disableOOMKiller: cgroup v2 cannot disable the OOM killer of a group \
             (no memory.oom_control)",
        ),
        (
            v2(),
            r#"{"unified": {"dmem.max": "0"}}"#,
            "linux.resources.unified[\"dmem.max\"]: dmem.max needs the dmem controller, which this host has not mounted as cgroup v2",
        ),
        (
            v1(),
            r#"{"unified": {"memory.high": "0"}}"#,
            "linux.resources.unified[\"memory.high\"]: this host has no cgroup v2 hierarchy",
        ),
        (
            hybrid(),
            r#"{"pids": {"limit": 1}}"#,
            "linux.resources.pids.limit: pids.max needs the pids controller, which this host has not mounted",
        ),
        (
            CgroupLayout::default(),
            r#"{"cpu": {"shares": 2}}"#,
            "linux.resources.cpu.shares: cpu.shares needs the cpu controller, which this host has not mounted",
        ),
    ] {
        assert_eq!(refusal(&layout, json), sentence);
    }
}

#[test]
fn wrong_values_are_refused_by_field() {
    for (json, sentence) in [
        (r#"{"pids": {"limit": -2}}"#, "linux.resources.pids.limit: -2 is not a limit or -1 (none)"),
        (r#"{"memory": {"limit": -2}}"#, "linux.resources.memory.limit: -2 is"),
        (r#"{"memory": {"swap": 5}}"#, "linux.resources.memory.swap: 5 is for memory and swap together, but"),
        (
            r#"{"memory": {"limit": 6, "swap": 5}}"#,
            "linux.resources.memory.swap: 5 is for memory and swap together, and",
        ),
        (r#"{"memory": {"swappiness": 101}}"#, "linux.resources.memory.swappiness: 101 is"),
        (r#"{"cpu": {"quota": 5, "burst": 6}}"#, "linux.resources.cpu.burst: 6 is more than the quota, 5"),
        (r#"{"cpu": {"idle": 2}}"#, "linux.resources.cpu.idle: 2 is not 0 or 1"),
        (r#"{"blockIO": {"weight": 9}}"#, "linux.resources.blockIO.weight: 9 is"),
        (
            r#"{"blockIO": {"weightDevice": [{"major": 8, "minor": 0}, {"major": 8, "minor": 0, "weight": 1001}]}}"#,
            "linux.resources.blockIO.weightDevice[1].weight: 1001 is not a weight",
        ),
        (
            r#"{"blockIO": {"throttleReadBpsDevice": [{"major": -1, "minor": 0, "rate": 1}]}}"#,
            "linux.resources.blockIO.throttleReadBpsDevice[0]: -1:0 is not a device number",
        ),
        (
            r#"{"hugepageLimits": [{"pageSize": "2M", "limit": 1}]}"#,
            "linux.resources.hugepageLimits[0].pageSize: \"2M\" is not",
        ),
        (
            r#"{"hugepageLimits": [{"pageSize": "../2MB", "limit": 1}]}"#,
            "linux.resources.hugepageLimits[0].pageSize: \"../2MB\" is not",
        ),
        (
            r#"{"network": {"priorities": [{"name": "a b", "priority": 1}]}}"#,
            "linux.resources.network.priorities[0].name: \"a b\" is not a name",
        ),
        (
            r#"{"rdma": {"a\nb": {"hcaHandles": 1}}}"#,
            "linux.resources.rdma[\"a\\nb\"]: \"a\\nb\" is not a name",
        ),
        (r#"{"unified": {"a/b.c": "1"}}"#, "linux.resources.unified[\"a/b.c\"]: not the name of"),
        (r#"{"unified": {"cgroup.procs": "1"}}"#, "linux.resources.unified[\"cgroup.procs\"]: not a limit"),
    ] {
        let said = refusal(&v2(), json);
        assert!(said.starts_with(sentence), "{said}");
    }
}

#[test]
fn limits_are_printed_one_on_a_line() {
    let resources = serde_json::from_str(
        r#"{"devices": [{"allow": true}, {"allow": false, "type": "b", "major": 8, "access": "w"}],
            "pids": {"limit": 9}}"#,
    )
    .unwrap();
    let printed = |layout| plan(Some(&resources), &layout, Authority::Root).unwrap().to_string();
    assert_eq!(printed(v1()), "limit  devices.allow a\nlimit  devices.deny b 8:* w\nlimit  pids.max 9\n");
    assert_eq!(
        printed(v2()),
        "limit  device program, allow a\nlimit  device program, deny b 8:* w\nlimit  pids.max 9\n"
    );
}

#[test]
fn only_root_can_restrict_devices() {
    let devices = |authority| plan(None, &v2(), authority).unwrap().devices;
    assert!(devices(Authority::Root).is_some());
    assert_eq!(devices(Authority::NamespacedRoot), None);
    assert_eq!(devices(Authority::User), None);
}

/// The page is where people look for what the table says.
#[test]
fn the_page_says_what_each_limit_is_on_v2() {
    let page = include_str!("../../../docs/spec-support.md");
    let mut wrong = Vec::new();
    for row in TABLE {
        let start = format!("| `linux.resources.{}` | done | ", row.field);
        let line = page.lines().find_map(|line| line.strip_prefix(&start));
        let remark = line.and_then(|line| line.split('|').next()).unwrap_or("not listed").trim();
        let of_another_row = row.field == "blockIO.weightDevice";
        let right = match &row.v2 {
            Form::File(_) if row.field == "unified" => remark == "cgroup v2",
            Form::File(_) => remark.is_empty(),
            Form::Impossible(_) => of_another_row || remark == "cgroup v1; refused on v2",
            Form::Ignored => remark.ends_with("of no effect on v2"),
            Form::Fixed(0, _) => remark == "cgroup v1; refused on v2",
            Form::Fixed(..) => remark == "always so on v2",
        };
        wrong.extend((!right).then(|| format!("{}: {remark}", row.field)));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
