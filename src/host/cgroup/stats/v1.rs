//! What the v1 controllers account. Runs outside.

use anyhow::Result;

use super::read::{hugetlb, keyed, list, number, numbers, parsed, value};
use super::{Blkio, BlkioEntry, Cpuset, Hugetlb, MemoryEntry, Pids, Stats};
use crate::host::cgroup::group::Group;

/// `cpuacct.stat` counts in ticks, of which userspace sees 100 in a second whatever the kernel's own are (time(7)).
const NANOSECONDS_PER_TICK: u64 = 10_000_000;

/// Whose files have the numbers, in the order to ask: the scheduler that counts them all, then the throttle.
const BLKIO_FAMILIES: [(&str, &str); 4] = [
    ("blkio.bfq.", "_recursive"),
    ("blkio.", "_recursive"),
    ("blkio.throttle.", "_recursive"),
    ("blkio.throttle.", ""),
];

type Reader = fn(&Group, &mut Stats) -> Result<()>;

const CONTROLLERS: [(&str, Reader); 7] = [
    ("cpu", cpu),
    ("cpuacct", cpuacct),
    ("cpuset", cpuset),
    ("memory", memory),
    ("pids", pids),
    ("blkio", blkio),
    ("hugetlb", huge_pages),
];

/// Read what this group's controllers account.
pub fn read(group: &Group, stats: &mut Stats) -> Result<()> {
    let mut readers = CONTROLLERS.iter().filter(|(controller, _)| group.controls(controller));
    readers.try_for_each(|(_, read)| read(group, stats))
}

fn cpu(group: &Group, stats: &mut Stats) -> Result<()> {
    let counts = keyed(group, "cpu.stat")?;
    let count = |key: &str| counts.get(key).copied().unwrap_or_default();
    let throttling = &mut stats.cpu.throttling;
    throttling.periods = count("nr_periods");
    throttling.throttled_periods = count("nr_throttled");
    throttling.throttled_time = count("throttled_time");
    Ok(())
}

fn cpuacct(group: &Group, stats: &mut Stats) -> Result<()> {
    let usage = &mut stats.cpu.usage;
    usage.total = number(group, "cpuacct.usage")?;
    usage.percpu = numbers(group, "cpuacct.usage_percpu")?;
    usage.percpu_kernel = numbers(group, "cpuacct.usage_percpu_sys")?;
    usage.percpu_user = numbers(group, "cpuacct.usage_percpu_user")?;
    let ticks = keyed(group, "cpuacct.stat")?;
    let nanoseconds = |key: &str| ticks.get(key).map_or(0, |ticks| ticks * NANOSECONDS_PER_TICK);
    usage.kernel = nanoseconds("system");
    usage.user = nanoseconds("user");
    Ok(())
}

fn cpuset(group: &Group, stats: &mut Stats) -> Result<()> {
    stats.cpuset = Cpuset {
        cpus: list(group, "cpuset.cpus")?,
        cpu_exclusive: number(group, "cpuset.cpu_exclusive")?,
        mems: list(group, "cpuset.mems")?,
        mem_hardwall: number(group, "cpuset.mem_hardwall")?,
        mem_exclusive: number(group, "cpuset.mem_exclusive")?,
        memory_migrate: number(group, "cpuset.memory_migrate")?,
        memory_spread_page: number(group, "cpuset.memory_spread_page")?,
        memory_spread_slab: number(group, "cpuset.memory_spread_slab")?,
        memory_pressure: number(group, "cpuset.memory_pressure")?,
        sched_load_balance: number(group, "cpuset.sched_load_balance")?,
        sched_relax_domain_level: parsed(group, "cpuset.sched_relax_domain_level", |text| {
            text.trim().parse().ok()
        })?,
    };
    Ok(())
}

fn memory(group: &Group, stats: &mut Stats) -> Result<()> {
    let entry = |prefix: &str| -> Result<MemoryEntry> {
        Ok(MemoryEntry {
            limit: number(group, &format!("{prefix}.limit_in_bytes"))?,
            usage: number(group, &format!("{prefix}.usage_in_bytes"))?,
            max: number(group, &format!("{prefix}.max_usage_in_bytes"))?,
            failcnt: number(group, &format!("{prefix}.failcnt"))?,
        })
    };
    let memory = &mut stats.memory;
    memory.usage = entry("memory")?;
    memory.swap = entry("memory.memsw")?;
    memory.kernel = entry("memory.kmem")?;
    memory.kernel_tcp = entry("memory.kmem.tcp")?;
    memory.raw = keyed(group, "memory.stat")?;
    memory.cache = memory.raw.get("cache").copied().unwrap_or_default();
    Ok(())
}

pub fn pids(group: &Group, stats: &mut Stats) -> Result<()> {
    let limit = number(group, "pids.max")?;
    stats.pids =
        Pids { current: number(group, "pids.current")?, limit: if limit == u64::MAX { 0 } else { limit } };
    Ok(())
}

fn blkio(group: &Group, stats: &mut Stats) -> Result<()> {
    for (prefix, suffix) in BLKIO_FAMILIES {
        let table = |name: &str| parsed(group, &format!("{prefix}{name}{suffix}"), device_lines);
        let io_serviced_recursive = table("io_serviced")?;
        if io_serviced_recursive.is_empty() {
            continue;
        }
        stats.blkio = Blkio {
            io_service_bytes_recursive: table("io_service_bytes")?,
            io_serviced_recursive,
            io_queued_recursive: table("io_queued")?,
            io_service_time_recursive: table("io_service_time")?,
            io_wait_time_recursive: table("io_wait_time")?,
            io_merged_recursive: table("io_merged")?,
            io_time_recursive: table("time")?,
            sectors_recursive: table("sectors")?,
            psi: stats.blkio.psi.take(),
        };
        break;
    }
    Ok(())
}

/// `8:0 Read 4096`, or `8:0 4096`; the last line is a sum without a device.
fn device_lines(text: &str) -> Option<Vec<BlkioEntry>> {
    let entry = |line: &str| {
        let (device, count) = line.split_once(' ')?;
        let (major, minor) = device.split_once(':')?;
        let (op, count) = count.split_once(' ').unwrap_or(("", count));
        Some(BlkioEntry {
            major: major.parse().ok()?,
            minor: minor.parse().ok()?,
            op: op.into(),
            value: value(count)?,
        })
    };
    text.lines().filter(|line| !line.starts_with("Total ")).map(entry).collect()
}

fn huge_pages(group: &Group, stats: &mut Stats) -> Result<()> {
    stats.hugetlb = hugetlb(group, ".usage_in_bytes", |_, prefix| {
        Ok(Hugetlb {
            usage: number(group, &format!("{prefix}.usage_in_bytes"))?,
            max: number(group, &format!("{prefix}.max_usage_in_bytes"))?,
            failcnt: number(group, &format!("{prefix}.failcnt"))?,
        })
    })?;
    Ok(())
}
