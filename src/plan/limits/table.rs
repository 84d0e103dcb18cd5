//! The table of limits: for each field of `linux.resources` its check, its v1 file and its v2 file.
//!
//! Pure. Values are checked where they are read; the kernel's own checks (ranges that depend on the host) are left
//! to the kernel. 0 has always meant "not set" where a limit of 0 makes no sense, and stays so.

use oci_spec::runtime::LinuxResources;

use super::conversions::{cpu_weight, io_weight, swap_beyond_memory};
use super::read::{self, Asked, Read, block_io, cpu, limit, memory, nonzero, number, quota, ranged, units};

pub struct Row {
    /// Below `linux.resources`.
    pub field: &'static str,
    /// What the configuration asks for, checked.
    pub read: fn(&LinuxResources) -> Read,
    pub v1: Form,
    pub v2: Form,
}

/// How a version of cgroups says it.
pub enum Form {
    File(File),
    /// The specification says that it has no meaning here.
    Ignored,
    /// There is nothing to write: it is always like this, and cannot be otherwise for the reason given.
    Fixed(i128, &'static str),
    Impossible(&'static str),
}

pub struct File {
    /// Empty for `unified`, where the file's own name tells.
    pub controller: &'static str,
    /// A `*` stands for the key.
    pub name: &'static str,
    /// `None`: there is nothing to write here.
    pub render: Render,
    pub missing: Missing,
    /// The file with the present use, for limits that may be below it.
    pub usage: Option<&'static str>,
}

type Render = fn(&Asked, &LinuxResources) -> Option<String>;

/// What it means that the kernel has no such file.
pub enum Missing {
    Refuse,
    Skip,
    /// It may be there and do nothing, which only reading it shows.
    Doubt,
    /// Fine for values that ask for what such a kernel does anyway.
    SkipIf(&'static [&'static str]),
    Instead(&'static File),
}

impl File {
    pub fn name(&self, asked: &Asked) -> String {
        self.name.replace('*', &asked.key)
    }

    pub fn controller<'a>(&'a self, asked: &'a Asked) -> &'a str {
        match self.controller {
            "" => asked.key.split('.').next().unwrap_or_default(),
            controller => controller,
        }
    }
}

pub const TABLE: &[Row] = &[
    Row {
        field: "cpu.shares",
        // An idle group has the least weight there is, and the kernel refuses to give it another.
        read: |r| number(nonzero(cpu(r).shares()).filter(|_| cpu(r).idle() != Some(1))),
        v1: file("cpu", "cpu.shares", plain),
        v2: file("cpu", "cpu.weight", |asked, _| Some(cpu_weight(asked.number).to_string())),
    },
    Row {
        field: "cpu.idle",
        read: |r| ranged(cpu(r).idle(), |idle| matches!(idle, 0 | 1), "0 or 1"),
        v1: file("cpu", "cpu.idle", plain),
        v2: file("cpu", "cpu.idle", plain),
    },
    Row {
        field: "cpu.period",
        read: |r| number(nonzero(cpu(r).period())),
        v1: file("cpu", "cpu.cfs_period_us", plain),
        // With a quota it is written beside that.
        v2: file("cpu", "cpu.max", |asked, r| quota(r).is_none().then(|| format!("max {}", asked.number))),
    },
    Row {
        field: "cpu.quota",
        read: |r| number(quota(r)),
        v1: file("cpu", "cpu.cfs_quota_us", plain),
        v2: file("cpu", "cpu.max", |asked, r| {
            let quota = or_max(asked, r)?;
            Some(nonzero(cpu(r).period()).map_or(quota.clone(), |period| format!("{quota} {period}")))
        }),
    },
    Row {
        field: "cpu.burst",
        read: read::burst,
        v1: file("cpu", "cpu.cfs_burst_us", plain),
        v2: file("cpu", "cpu.max.burst", plain),
    },
    Row {
        field: "cpu.realtimePeriod",
        read: |r| number(nonzero(cpu(r).realtime_period())),
        v1: file("cpu", "cpu.rt_period_us", plain),
        v2: Form::Impossible(NO_REALTIME),
    },
    Row {
        field: "cpu.realtimeRuntime",
        read: |r| limit(nonzero(cpu(r).realtime_runtime())),
        v1: file("cpu", "cpu.rt_runtime_us", plain),
        v2: Form::Impossible(NO_REALTIME),
    },
    Row {
        field: "cpu.cpus",
        read: |r| units(cpu(r).cpus().as_deref()),
        v1: file("cpuset", "cpuset.cpus", words),
        v2: file("cpuset", "cpuset.cpus", words),
    },
    Row {
        field: "cpu.mems",
        read: |r| units(cpu(r).mems().as_deref()),
        v1: file("cpuset", "cpuset.mems", words),
        v2: file("cpuset", "cpuset.mems", words),
    },
    Row {
        field: "memory.limit",
        read: |r| limit(nonzero(memory(r).limit())),
        v1: measured("memory", "memory.limit_in_bytes", plain, "memory.usage_in_bytes"),
        v2: measured("memory", "memory.max", or_max, "memory.current"),
    },
    Row {
        field: "memory.swap",
        read: read::swap,
        v1: optional("memory", "memory.memsw.limit_in_bytes", plain, &["-1"]),
        v2: optional(
            "memory",
            "memory.swap.max",
            |asked, r| Some(swap_beyond_memory(memory(r).limit(), asked.number)),
            &["max", "0"],
        ),
    },
    Row {
        field: "memory.reservation",
        read: |r| limit(nonzero(memory(r).reservation())),
        v1: file("memory", "memory.soft_limit_in_bytes", plain),
        v2: file("memory", "memory.low", or_max),
    },
    Row {
        field: "memory.kernel",
        #[allow(deprecated)]
        read: |r| limit(nonzero(memory(r).kernel())),
        v1: Form::File(new_file("memory", "memory.kmem.limit_in_bytes", plain, Missing::Doubt)),
        v2: Form::Ignored,
    },
    Row {
        field: "memory.kernelTCP",
        read: |r| limit(nonzero(memory(r).kernel_tcp())),
        v1: file("memory", "memory.kmem.tcp.limit_in_bytes", plain),
        v2: Form::Ignored,
    },
    Row {
        field: "memory.swappiness",
        read: |r| ranged(memory(r).swappiness(), |value| value <= 100, "between 0 and 100"),
        v1: file("memory", "memory.swappiness", plain),
        v2: Form::Impossible("cgroup v2 has no swappiness of a group (no memory.swappiness)"),
    },
    Row {
        field: "memory.disableOOMKiller",
        read: |r| number(memory(r).disable_oom_killer()),
        v1: file("memory", "memory.oom_control", plain),
        v2: Form::Fixed(0, "cgroup v2 cannot disable the OOM killer of a group (no memory.oom_control)"),
    },
    Row {
        field: "memory.useHierarchy",
        read: |r| number(memory(r).use_hierarchy()),
        v1: file("memory", "memory.use_hierarchy", plain),
        v2: Form::Fixed(1, "cgroup v2 is always hierarchical (no memory.use_hierarchy)"),
    },
    Row {
        field: "pids.limit",
        read: |r| limit(r.pids().map(|pids| pids.limit())),
        v1: file("pids", "pids.max", or_max),
        v2: file("pids", "pids.max", or_max),
    },
    Row {
        field: "blockIO.weight",
        read: |r| read::weight(block_io(r).weight()),
        v1: first("blkio", "blkio.weight", plain, &BLKIO_BFQ_WEIGHT),
        v2: first("io", "io.bfq.weight", plain, &IO_WEIGHT),
    },
    Row {
        field: "blockIO.leafWeight",
        read: |r| read::weight(block_io(r).leaf_weight()),
        v1: file("blkio", "blkio.leaf_weight", plain),
        v2: Form::Impossible(NO_LEAF_WEIGHT),
    },
    Row {
        field: "blockIO.weightDevice",
        read: |r| read::device_weights(r, "weight", |device| device.weight()),
        v1: first("blkio", "blkio.weight_device", keyed, &BLKIO_BFQ_WEIGHT_DEVICE),
        v2: first("io", "io.bfq.weight", keyed, &IO_WEIGHT_DEVICE),
    },
    Row {
        field: "blockIO.weightDevice",
        read: |r| read::device_weights(r, "leafWeight", |device| device.leaf_weight()),
        v1: file("blkio", "blkio.leaf_weight_device", keyed),
        v2: Form::Impossible(NO_LEAF_WEIGHT),
    },
    Row {
        field: "blockIO.throttleReadBpsDevice",
        read: |r| read::throttles(block_io(r).throttle_read_bps_device()),
        v1: file("blkio", "blkio.throttle.read_bps_device", keyed),
        v2: file("io", "io.max", |asked, _| Some(io_max(asked, "rbps"))),
    },
    Row {
        field: "blockIO.throttleWriteBpsDevice",
        read: |r| read::throttles(block_io(r).throttle_write_bps_device()),
        v1: file("blkio", "blkio.throttle.write_bps_device", keyed),
        v2: file("io", "io.max", |asked, _| Some(io_max(asked, "wbps"))),
    },
    Row {
        field: "blockIO.throttleReadIOPSDevice",
        read: |r| read::throttles(block_io(r).throttle_read_iops_device()),
        v1: file("blkio", "blkio.throttle.read_iops_device", keyed),
        v2: file("io", "io.max", |asked, _| Some(io_max(asked, "riops"))),
    },
    Row {
        field: "blockIO.throttleWriteIOPSDevice",
        read: |r| read::throttles(block_io(r).throttle_write_iops_device()),
        v1: file("blkio", "blkio.throttle.write_iops_device", keyed),
        v2: file("io", "io.max", |asked, _| Some(io_max(asked, "wiops"))),
    },
    Row {
        field: "hugepageLimits",
        read: read::huge_pages,
        v1: file("hugetlb", "hugetlb.*.limit_in_bytes", plain),
        v2: file("hugetlb", "hugetlb.*.max", or_max),
    },
    Row {
        // Reservations too, where the kernel counts them: what was granted then never faults for want of pages.
        field: "hugepageLimits",
        read: read::huge_pages,
        v1: skippable("hugetlb", "hugetlb.*.rsvd.limit_in_bytes", plain),
        v2: skippable("hugetlb", "hugetlb.*.rsvd.max", or_max),
    },
    Row {
        field: "network.classID",
        read: read::class_id,
        v1: file("net_cls", "net_cls.classid", plain),
        v2: Form::Impossible(
            "cgroup v2 does not tag packets, and v1's net_cls is not mounted (no net_cls.classid)",
        ),
    },
    Row {
        field: "network.priorities",
        read: read::priorities,
        v1: file("net_prio", "net_prio.ifpriomap", keyed),
        v2: Form::Impossible(
            "cgroup v2 does not set packet priorities, and v1's net_prio is not mounted (no net_prio.ifpriomap)",
        ),
    },
    Row {
        field: "rdma",
        read: read::rdma,
        v1: file("rdma", "rdma.max", words),
        v2: file("rdma", "rdma.max", words),
    },
    Row {
        field: "unified",
        read: read::unified,
        v1: Form::Impossible("this host has no cgroup v2 hierarchy"),
        v2: file("", "*", words),
    },
];

const NO_REALTIME: &str = "cgroup v2 does not limit realtime scheduling (no cpu.rt_runtime_us)";
const NO_LEAF_WEIGHT: &str = "cgroup v2 has no weight against child groups (no blkio.leaf_weight)";
const BLKIO_BFQ_WEIGHT: File = new_file("blkio", "blkio.bfq.weight", plain, Missing::Refuse);
const BLKIO_BFQ_WEIGHT_DEVICE: File = new_file("blkio", "blkio.bfq.weight_device", keyed, Missing::Refuse);
const IO_WEIGHT: File =
    new_file("io", "io.weight", |asked, _| Some(io_weight(asked.number).to_string()), Missing::Refuse);
const IO_WEIGHT_DEVICE: File = new_file(
    "io",
    "io.weight",
    |asked, _| Some(format!("{} {}", asked.key, io_weight(asked.number))),
    Missing::Refuse,
);

const fn new_file(controller: &'static str, name: &'static str, render: Render, missing: Missing) -> File {
    File { controller, name, render, missing, usage: None }
}

const fn file(controller: &'static str, name: &'static str, render: Render) -> Form {
    Form::File(new_file(controller, name, render, Missing::Refuse))
}

const fn first(controller: &'static str, name: &'static str, render: Render, other: &'static File) -> Form {
    Form::File(new_file(controller, name, render, Missing::Instead(other)))
}

const fn skippable(controller: &'static str, name: &'static str, render: Render) -> Form {
    Form::File(new_file(controller, name, render, Missing::Skip))
}

const fn optional(
    controller: &'static str,
    name: &'static str,
    render: Render,
    values: &'static [&'static str],
) -> Form {
    Form::File(new_file(controller, name, render, Missing::SkipIf(values)))
}

const fn measured(controller: &'static str, name: &'static str, render: Render, usage: &'static str) -> Form {
    Form::File(File { controller, name, render, missing: Missing::Refuse, usage: Some(usage) })
}

fn plain(asked: &Asked, _: &LinuxResources) -> Option<String> {
    Some(asked.number.to_string())
}

fn words(asked: &Asked, _: &LinuxResources) -> Option<String> {
    Some(asked.text.clone())
}

fn keyed(asked: &Asked, _: &LinuxResources) -> Option<String> {
    Some(format!("{} {}", asked.key, asked.number))
}

/// "No limit" is a word, not a number.
fn or_max(asked: &Asked, _: &LinuxResources) -> Option<String> {
    Some(if asked.number < 0 { "max".to_string() } else { asked.number.to_string() })
}

/// A rate of 0 takes a limit of v1 away; v2 has a word for it.
fn io_max(asked: &Asked, what: &str) -> String {
    match asked.number {
        0 => format!("{} {what}=max", asked.key),
        rate => format!("{} {what}={rate}", asked.key),
    }
}
