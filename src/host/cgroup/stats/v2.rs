//! What a v2 group accounts: what its controllers do, and pressure, which needs none. Runs outside.

use anyhow::Result;

use super::read::{field, hugetlb, keyed, list, number, parsed, pressure};
use super::{BlkioEntry, Cpu, CpuUsage, Cpuset, Hugetlb, Memory, MemoryEntry, Stats, Throttling, v1};
use crate::host::cgroup::group::Group;

const NANOSECONDS_PER_MICROSECOND: u64 = 1000;

pub fn read(group: &Group) -> Result<Stats> {
    let mut stats = Stats { cpu: cpu(group)?, memory: memory(group)?, ..Stats::default() };
    stats.cpuset = Cpuset {
        cpus: list(group, "cpuset.cpus.effective")?,
        mems: list(group, "cpuset.mems.effective")?,
        ..Cpuset::default()
    };
    // The same files as in v1.
    v1::pids(group, &mut stats)?;
    stats.blkio.io_service_bytes_recursive = io(group, [("rbytes", "Read"), ("wbytes", "Write")])?;
    stats.blkio.io_serviced_recursive = io(group, [("rios", "Read"), ("wios", "Write")])?;
    stats.blkio.psi = pressure(group, "io.pressure")?;
    stats.hugetlb = hugetlb(group, ".current", |size, prefix| {
        Ok(Hugetlb {
            usage: number(group, &format!("{prefix}.current"))?,
            max: 0,
            failcnt: event(group, &format!("hugetlb.{size}.events"), "max")?,
        })
    })?;
    Ok(stats)
}

fn cpu(group: &Group) -> Result<Cpu> {
    let counts = keyed(group, "cpu.stat")?;
    let count = |key: &str| counts.get(key).copied().unwrap_or_default();
    let nanoseconds = |key: &str| count(key) * NANOSECONDS_PER_MICROSECOND;
    Ok(Cpu {
        usage: CpuUsage {
            total: nanoseconds("usage_usec"),
            kernel: nanoseconds("system_usec"),
            user: nanoseconds("user_usec"),
            ..CpuUsage::default()
        },
        throttling: Throttling {
            periods: count("nr_periods"),
            throttled_periods: count("nr_throttled"),
            throttled_time: nanoseconds("throttled_usec"),
        },
        psi: pressure(group, "cpu.pressure")?,
    })
}

fn memory(group: &Group) -> Result<Memory> {
    let entry = |prefix: &str| -> Result<MemoryEntry> {
        Ok(MemoryEntry {
            limit: number(group, &format!("{prefix}.max"))?,
            usage: number(group, &format!("{prefix}.current"))?,
            max: number(group, &format!("{prefix}.peak"))?,
            failcnt: event(group, &format!("{prefix}.events"), "max")?,
        })
    };
    let (usage, mut swap) = (entry("memory")?, entry("memory.swap")?);
    // v2 counts swap alone, and callers know it as v1's memory and swap. Peaks do not add up: they may have been at
    // different times.
    swap.usage += usage.usage;
    swap.limit = swap.limit.saturating_add(usage.limit);
    swap.max = 0;
    let raw = keyed(group, "memory.stat")?;
    Ok(Memory {
        cache: raw.get("file").copied().unwrap_or_default(),
        usage,
        swap,
        raw,
        psi: pressure(group, "memory.pressure")?,
        ..Memory::default()
    })
}

fn event(group: &Group, file: &str, key: &str) -> Result<u64> {
    Ok(keyed(group, file)?.get(key).copied().unwrap_or_default())
}

/// Lines such as `8:0 rbytes=4096 wbytes=0 rios=1 wios=0 dbytes=0 dios=0`, by v1's names of what was done. A device
/// may have none of the keys, when nothing was done yet.
fn io(group: &Group, operations: [(&str, &str); 2]) -> Result<Vec<BlkioEntry>> {
    parsed(group, "io.stat", |text| {
        let mut entries = Vec::new();
        for line in text.lines() {
            let (device, fields) = line.split_once(' ').unwrap_or((line, ""));
            let (major, minor) = device.split_once(':')?;
            let (major, minor) = (major.parse().ok()?, minor.parse().ok()?);
            for (key, op) in operations {
                if let Some(value) = field(fields, key) {
                    entries.push(BlkioEntry { major, minor, op: op.into(), value });
                }
            }
        }
        Some(entries)
    })
}
