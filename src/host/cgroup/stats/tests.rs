//! Statistics read from directories that look like groups, as the JSON that callers get.

use serde_json::{Value, json};

use super::Stats;
use crate::host::cgroup::tests::Fake;

fn stats(fake: &Fake) -> Value {
    serde_json::to_value(fake.open().stats().unwrap()).unwrap()
}

#[test]
fn a_group_without_files_has_the_members_that_runc_always_prints() {
    let entry = json!({"limit": 0, "failcnt": 0});
    let cpuset = json!({
        "cpu_exclusive": 0, "mem_hardwall": 0, "mem_exclusive": 0, "memory_migrate": 0, "memory_spread_page": 0,
        "memory_spread_slab": 0, "memory_pressure": 0, "sched_load_balance": 0, "sched_relax_domain_level": 0,
    });
    let expected = json!({
        "cpu": {"usage": {"kernel": 0, "user": 0}, "throttling": {}},
        "cpuset": cpuset,
        "memory": {"usage": entry, "swap": entry, "kernel": entry, "kernelTCP": entry},
        "pids": {},
        "blkio": {},
        "hugetlb": {},
        "intel_rdt": {},
        "network_interfaces": null,
    });
    assert_eq!(serde_json::to_value(Stats::default()).unwrap(), expected);
    assert_eq!(stats(&Fake::v1(&["cpu,cpuacct", "memory", "hugetlb"])), expected);
    assert_eq!(stats(&Fake::v2("cpu memory io hugetlb")), expected);
}

#[test]
fn v1_counts_processors_in_nanoseconds_and_ticks() {
    let fake = Fake::v1(&["cpu,cpuacct"])
        .file("cpu,cpuacct/pods/web/cpu.stat", "nr_periods 8\nnr_throttled 3\nthrottled_time 5000\n")
        .file("cpu,cpuacct/pods/web/cpuacct.usage", "123456789\n")
        .file("cpu,cpuacct/pods/web/cpuacct.usage_percpu", "23456789 100000000 \n")
        .file("cpu,cpuacct/pods/web/cpuacct.usage_percpu_sys", "1 2\n")
        .file("cpu,cpuacct/pods/web/cpuacct.usage_percpu_user", "3 4\n")
        .file("cpu,cpuacct/pods/web/cpuacct.stat", "user 7\nsystem 2\n");
    assert_eq!(
        stats(&fake)["cpu"],
        json!({
            "usage": {
                "total": 123_456_789, "percpu": [23_456_789, 100_000_000], "percpu_kernel": [1, 2],
                "percpu_user": [3, 4], "kernel": 20_000_000, "user": 70_000_000,
            },
            "throttling": {"periods": 8, "throttledPeriods": 3, "throttledTime": 5000},
        })
    );
}

#[test]
fn v1_has_memory_entries_by_kind_and_the_rest_raw() {
    let mut fake = Fake::v1(&["memory"]).file("memory/pods/web/memory.stat", "cache 4096\nrss 8192\n");
    for (number, kind) in ["memory", "memory.memsw", "memory.kmem", "memory.kmem.tcp"].iter().enumerate() {
        for (digit, file) in
            ["limit_in_bytes", "usage_in_bytes", "max_usage_in_bytes", "failcnt"].iter().enumerate()
        {
            fake = fake.file(&format!("memory/pods/web/{kind}.{file}"), &format!("{number}{digit}\n"));
        }
    }
    assert_eq!(
        stats(&fake)["memory"],
        json!({
            "cache": 4096,
            "usage": {"limit": 0, "usage": 1, "max": 2, "failcnt": 3},
            "swap": {"limit": 10, "usage": 11, "max": 12, "failcnt": 13},
            "kernel": {"limit": 20, "usage": 21, "max": 22, "failcnt": 23},
            "kernelTCP": {"limit": 30, "usage": 31, "max": 32, "failcnt": 33},
            "raw": {"cache": 4096, "rss": 8192},
        })
    );
}

#[test]
fn v1_has_cpusets_and_processes() {
    let fake = Fake::v1(&["cpuset", "pids"])
        .file("cpuset/pods/web/cpuset.cpus", "0-2,7\n")
        .file("cpuset/pods/web/cpuset.mems", "\n")
        .file("cpuset/pods/web/cpuset.sched_load_balance", "1\n")
        .file("cpuset/pods/web/cpuset.sched_relax_domain_level", "-1\n")
        .file("pids/pods/web/pids.current", "4\n")
        .file("pids/pods/web/pids.max", "max\n");
    let stats = stats(&fake);
    assert_eq!(stats["cpuset"]["cpus"], json!([0, 1, 2, 7]));
    assert_eq!(stats["cpuset"]["mems"], Value::Null);
    assert_eq!(stats["cpuset"]["sched_load_balance"], 1);
    assert_eq!(stats["cpuset"]["sched_relax_domain_level"], -1);
    assert_eq!(stats["pids"], json!({"current": 4}));
}

#[test]
fn v1_block_devices_are_counted_by_the_first_family_that_has_any() {
    let group = |name: &str| format!("blkio/pods/web/blkio.{name}");
    let fake = Fake::v1(&["blkio"])
        .file(&group("bfq.io_serviced_recursive"), "Total 0\n")
        .file(&group("throttle.io_serviced_recursive"), "8:16 Read 3\n8:16 Total 3\nTotal 3\n")
        .file(&group("throttle.io_service_bytes_recursive"), "8:16 Read 4096\nTotal 4096\n")
        .file(&group("throttle.io_serviced"), "8:16 Read 1\nTotal 1\n");
    assert_eq!(
        stats(&fake)["blkio"],
        json!({
            "ioServiceBytesRecursive": [{"major": 8, "minor": 16, "op": "Read", "value": 4096}],
            "ioServicedRecursive": [
                {"major": 8, "minor": 16, "op": "Read", "value": 3},
                {"major": 8, "minor": 16, "op": "Total", "value": 3},
            ],
        })
    );
}

#[test]
fn huge_pages_are_counted_by_size_and_as_reserved_where_the_kernel_does() {
    let mut fake = Fake::v1(&["hugetlb"]);
    for (prefix, number) in [("2MB", 1), ("2MB.rsvd", 4), ("1GB", 7)] {
        for (place, file) in ["usage_in_bytes", "max_usage_in_bytes", "failcnt"].iter().enumerate() {
            fake = fake
                .file(&format!("hugetlb/pods/web/hugetlb.{prefix}.{file}"), &format!("{}\n", number + place));
        }
    }
    assert_eq!(
        stats(&fake)["hugetlb"],
        json!({
            "2MB": {"usage": 4, "max": 5, "failcnt": 6},
            "1GB": {"usage": 7, "max": 8, "failcnt": 9},
        })
    );
    let fake = Fake::v2("hugetlb")
        .file("pods/web/cgroup.freeze", "0\n")
        .file("pods/web/hugetlb.2MB.current", "5\n")
        .file("pods/web/hugetlb.2MB.events", "max 6\n");
    assert_eq!(stats(&fake)["hugetlb"], json!({"2MB": {"usage": 5, "failcnt": 6}}));
}

const STALLED: &str =
    "some avg10=1.50 avg60=0.25 avg300=0.00 total=12\nfull avg10=0.50 avg60=0.00 avg300=0.00 total=4\n";

fn pressure() -> Value {
    json!({
        "some": {"avg10": 1.5, "avg60": 0.25, "avg300": 0.0, "total": 12},
        "full": {"avg10": 0.5, "avg60": 0.0, "avg300": 0.0, "total": 4},
    })
}

#[test]
fn v2_counts_in_the_units_of_v1_and_adds_pressure() {
    let fake = Fake::v2("cpu cpuset io memory pids")
        .file("pods/web/cgroup.freeze", "0\n")
        .file(
            "pods/web/cpu.stat",
            "usage_usec 9\nuser_usec 5\nsystem_usec 4\nnr_periods 3\nnr_throttled 2\nthrottled_usec 1\n",
        )
        .file("pods/web/cpu.pressure", STALLED)
        .file("pods/web/cpuset.cpus.effective", "0-1\n")
        .file("pods/web/memory.current", "100\n")
        .file("pods/web/memory.max", "1000\n")
        .file("pods/web/memory.peak", "200\n")
        .file("pods/web/memory.events", "low 0\nmax 3\noom_kill 0\n")
        .file("pods/web/memory.swap.current", "10\n")
        .file("pods/web/memory.swap.max", "max\n")
        .file("pods/web/memory.stat", "anon 60\nfile 40\n")
        .file("pods/web/memory.pressure", STALLED)
        .file("pods/web/pids.current", "4\n")
        .file("pods/web/pids.max", "17\n")
        .file("pods/web/io.stat", "8:0 rbytes=4096 wbytes=0 rios=1 wios=0 dbytes=0 dios=0\n7:1\n")
        .file("pods/web/io.pressure", STALLED);
    let stats = stats(&fake);
    assert_eq!(
        stats["cpu"],
        json!({
            "usage": {"total": 9000, "user": 5000, "kernel": 4000},
            "throttling": {"periods": 3, "throttledPeriods": 2, "throttledTime": 1000},
            "psi": pressure(),
        })
    );
    assert_eq!(stats["cpuset"]["cpus"], json!([0, 1]));
    let kernel = json!({"limit": 0, "failcnt": 0});
    assert_eq!(
        stats["memory"],
        json!({
            "cache": 40,
            "usage": {"limit": 1000, "usage": 100, "max": 200, "failcnt": 3},
            "swap": {"limit": u64::MAX, "usage": 110, "failcnt": 0},
            "kernel": kernel,
            "kernelTCP": kernel,
            "raw": {"anon": 60, "file": 40},
            "psi": pressure(),
        })
    );
    assert_eq!(stats["pids"], json!({"current": 4, "limit": 17}));
    assert_eq!(
        stats["blkio"],
        json!({
            "ioServiceBytesRecursive": [
                {"major": 8, "op": "Read", "value": 4096},
                {"major": 8, "op": "Write"},
            ],
            "ioServicedRecursive": [{"major": 8, "op": "Read", "value": 1}, {"major": 8, "op": "Write"}],
            "psi": pressure(),
        })
    );
}

#[test]
fn a_file_in_another_form_is_an_error_that_names_it() {
    let fake = Fake::v1(&["pids"]).file("pids/pods/web/pids.current", "many\n");
    let error = fake.open().stats().unwrap_err().to_string();
    assert!(error.ends_with("/pids/pods/web/pids.current says \"many\\n\""), "{error}");
}
