//! What is written into the files of a group, as properties of its unit: systemd writes the files anew when it likes,
//! and shows what it knows.
//!
//! Pure. A file that has no property is the group's alone; systemd leaves it as it is.

use super::Property;
use super::variant::Variant;
use crate::plan::cgroup::Version;
use crate::plan::limits::{Otherwise, Setting};
use crate::plan::scheduling;

/// A file, and how systemd says the same.
struct Row {
    version: Version,
    file: &'static str,
    property: &'static str,
    since: u32,
    value: Say,
}

/// The property's value, from the file's and the other settings; none for what cannot be said.
type Say = fn(&str, &[Setting]) -> Option<Variant>;

const fn v1(file: &'static str, property: &'static str, since: u32, value: Say) -> Row {
    Row { version: Version::V1, file, property, since, value }
}

const fn v2(file: &'static str, property: &'static str, since: u32, value: Say) -> Row {
    Row { version: Version::V2, file, property, since, value }
}

const ROWS: &[Row] = &[
    v1("cpu.shares", "CPUShares", 218, |text, _| number(text)),
    v1("cpu.cfs_quota_us", "CPUQuotaPerSecUSec", 218, |quota, settings| {
        let mut periods = settings.iter().filter(|setting| setting.file == "cpu.cfs_period_us");
        per_second(quota, periods.next().map_or(DEFAULT_PERIOD, |setting| &setting.value))
    }),
    v1("cpu.cfs_period_us", "CPUQuotaPeriodUSec", 242, |period, _| number(period)),
    v1("memory.limit_in_bytes", "MemoryLimit", 218, |text, _| number(text)),
    v1("blkio.weight", "BlockIOWeight", 218, |text, _| number(text)),
    v1("pids.max", "TasksMax", 227, |text, _| tasks(text)),
    v2("cpu.weight", "CPUWeight", 232, |text, _| number(text)),
    v2("cpu.idle", "CPUWeight", 252, |idle, settings| match idle {
        "1" => Some(Variant::Uint64(0)),
        // As if no weight had ever been set.
        _ => settings.iter().all(|setting| setting.file != "cpu.weight").then_some(Variant::Uint64(u64::MAX)),
    }),
    v2("cpu.max", "CPUQuotaPerSecUSec", 232, |max, _| {
        let mut words = max.split(' ');
        per_second(words.next()?, words.next().unwrap_or(DEFAULT_PERIOD))
    }),
    v2("cpu.max", "CPUQuotaPeriodUSec", 242, |max, _| number(max.split_once(' ')?.1)),
    v2("cpuset.cpus", "AllowedCPUs", 244, |text, _| mask(text)),
    v2("cpuset.mems", "AllowedMemoryNodes", 244, |text, _| mask(text)),
    v2("memory.min", "MemoryMin", 240, |text, _| number(text)),
    v2("memory.low", "MemoryLow", 231, |text, _| number(text)),
    v2("memory.high", "MemoryHigh", 231, |text, _| number(text)),
    v2("memory.max", "MemoryMax", 231, |text, _| number(text)),
    v2("memory.swap.max", "MemorySwapMax", 232, |text, _| number(text)),
    v2("memory.zswap.max", "MemoryZSwapMax", 253, |text, _| number(text)),
    v2("memory.oom.group", "OOMPolicy", 253, |kill, _| {
        Some(Variant::text(if kill == "1" { "kill" } else { "continue" }))
    }),
    v2("io.weight", "IOWeight", 230, |weight, _| number(weight.strip_prefix("default ").unwrap_or(weight))),
    v2("pids.max", "TasksMax", 227, |text, _| tasks(text)),
];

const DEFAULT_PERIOD: &str = "100000";
/// systemd counts quotas in steps of this many microseconds per second, and the kernel in microseconds of a period.
const STEP: u64 = 10_000;

/// The properties of these settings; of two about the same the last one counts, as for files.
pub fn of(settings: &[Setting]) -> Vec<Property> {
    let mut properties: Vec<Property> = Vec::new();
    for setting in settings {
        let mut said = vec![(&setting.file, &setting.value)];
        if let Otherwise::Write { file, value } = &setting.otherwise {
            said.push((file, value));
        }
        for (file, value) in said {
            let rows = ROWS.iter().filter(|row| row.version == setting.version && row.file == file);
            for row in rows {
                if let Some(value) = (row.value)(value.trim(), settings) {
                    properties.retain(|known| known.name != row.property);
                    properties.push(Property::new(row.property, value).since(row.since));
                }
            }
        }
    }
    properties
}

/// No limit is the largest number. What has a key before its number is about one device, and no property.
fn number(text: &str) -> Option<Variant> {
    match text {
        "max" | "-1" => Some(Variant::Uint64(u64::MAX)),
        number => number.parse().ok().map(Variant::Uint64),
    }
}

/// systemd knows no unit without tasks.
fn tasks(text: &str) -> Option<Variant> {
    match number(text)? {
        Variant::Uint64(0) => Some(Variant::Uint64(1)),
        limit => Some(limit),
    }
}

/// Rounded up to what systemd counts in.
fn per_second(quota: &str, period: &str) -> Option<Variant> {
    let Variant::Uint64(quota) = number(quota)? else { return None };
    if quota == u64::MAX {
        return Some(Variant::Uint64(u64::MAX));
    }
    let period: u64 = period.parse().ok().filter(|period| *period > 0)?;
    let microseconds = quota.checked_mul(1_000_000)? / period;
    Some(Variant::Uint64(microseconds.checked_next_multiple_of(STEP)?))
}

/// A bit for each processor or node, in as many bytes as it takes.
fn mask(list: &str) -> Option<Variant> {
    let units = scheduling::units(list).ok()?;
    let mut bytes = vec![0u8; units.iter().max().map_or(0, |last| last / 8 + 1)];
    units.iter().for_each(|unit| bytes[unit / 8] |= 1 << (unit % 8));
    Some(Variant::Array("y".into(), bytes.into_iter().map(Variant::Byte).collect()))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::plan::cgroup::{CgroupLayout, Hierarchy};
    use crate::plan::limits::settings;

    fn printed(version: Version, resources: Value) -> Vec<String> {
        let controllers = ["cpu", "cpuset", "io", "blkio", "memory", "pids"].map(String::from).to_vec();
        let hierarchy = Hierarchy { controllers, directory: "".into() };
        let layout = match version {
            Version::V1 => CgroupLayout { v1: vec![hierarchy], ..CgroupLayout::default() },
            Version::V2 => CgroupLayout { v2: Some(hierarchy), ..CgroupLayout::default() },
        };
        let settings = settings(&serde_json::from_value(resources).unwrap(), &layout).unwrap();
        of(&settings).iter().map(Property::to_string).collect()
    }

    #[test]
    fn every_limit_that_systemd_knows_is_a_property() {
        const INFINITY: &str = "uint64 18446744073709551615";
        for (resources, v1, v2) in [
            (
                json!({"memory": {"limit": 4096}}),
                vec!["MemoryLimit=uint64 4096"],
                vec!["MemoryMax=uint64 4096"],
            ),
            (
                json!({"memory": {"limit": 4096, "swap": 8192, "reservation": 1024}}),
                vec!["MemoryLimit=uint64 4096"],
                vec!["MemorySwapMax=uint64 4096", "MemoryMax=uint64 4096", "MemoryLow=uint64 1024"],
            ),
            (
                json!({"memory": {"limit": -1}}),
                vec![&*format!("MemoryLimit={INFINITY}")],
                vec![&*format!("MemorySwapMax={INFINITY}"), &*format!("MemoryMax={INFINITY}")],
            ),
            (json!({"cpu": {"shares": 512}}), vec!["CPUShares=uint64 512"], vec!["CPUWeight=uint64 59"]),
            (json!({"cpu": {"idle": 1}}), vec![], vec!["CPUWeight=uint64 0"]),
            (json!({"cpu": {"idle": 0}}), vec![], vec![&*format!("CPUWeight={INFINITY}")]),
            (
                json!({"cpu": {"idle": 0, "shares": 512}}),
                vec!["CPUShares=uint64 512"],
                vec!["CPUWeight=uint64 59"],
            ),
            (
                json!({"cpu": {"quota": 50_000, "period": 200_000}}),
                vec!["CPUQuotaPeriodUSec=uint64 200000", "CPUQuotaPerSecUSec=uint64 250000"],
                vec!["CPUQuotaPerSecUSec=uint64 250000", "CPUQuotaPeriodUSec=uint64 200000"],
            ),
            (
                json!({"cpu": {"quota": 12_345}}),
                vec!["CPUQuotaPerSecUSec=uint64 130000"],
                vec!["CPUQuotaPerSecUSec=uint64 130000"],
            ),
            (
                json!({"cpu": {"quota": -1}}),
                vec![&*format!("CPUQuotaPerSecUSec={INFINITY}")],
                vec![&*format!("CPUQuotaPerSecUSec={INFINITY}")],
            ),
            (
                json!({"cpu": {"cpus": "0-2,9", "mems": "0"}}),
                vec![],
                vec!["AllowedCPUs=[byte 7, byte 2]", "AllowedMemoryNodes=[byte 1]"],
            ),
            (json!({"pids": {"limit": 0}}), vec!["TasksMax=uint64 1"], vec!["TasksMax=uint64 1"]),
            (json!({"pids": {"limit": 7}}), vec!["TasksMax=uint64 7"], vec!["TasksMax=uint64 7"]),
            (
                json!({"pids": {"limit": -1}}),
                vec![&*format!("TasksMax={INFINITY}")],
                vec![&*format!("TasksMax={INFINITY}")],
            ),
            (
                json!({"blockIO": {"weight": 200}}),
                vec!["BlockIOWeight=uint64 200"],
                vec!["IOWeight=uint64 1920"],
            ),
        ] {
            if !v1.is_empty() || !v2.is_empty() {
                assert_eq!(printed(Version::V1, resources.clone()), v1, "{resources}");
            }
            assert_eq!(printed(Version::V2, resources.clone()), v2, "{resources}");
        }
    }

    #[test]
    fn files_of_unified_are_properties_too() {
        let unified = json!({"unified": {
            "memory.high": "max", "memory.min": "5", "memory.oom.group": "1", "memory.zswap.max": "0",
            "io.max": "8:0 rbps=1", "io.weight": "8:0 100", "hugetlb.2MB.max": "0", "cpu.max.burst": "1",
        }});
        let controllers = ["memory", "io", "hugetlb", "cpu"].map(String::from).to_vec();
        let v2 = Some(Hierarchy { controllers, directory: "".into() });
        let layout = CgroupLayout { v2, ..CgroupLayout::default() };
        let settings = settings(&serde_json::from_value(unified).unwrap(), &layout).unwrap();
        let printed: Vec<String> = of(&settings).iter().map(Property::to_string).collect();
        assert_eq!(
            printed,
            [
                "MemoryHigh=uint64 18446744073709551615",
                "MemoryMin=uint64 5",
                "OOMPolicy='kill'",
                "MemoryZSwapMax=uint64 0"
            ]
        );
    }

    #[test]
    fn the_last_word_on_a_property_counts() {
        let resources = json!({"pids": {"limit": 3}, "unified": {"pids.max": "9"}});
        assert_eq!(printed(Version::V2, resources), ["TasksMax=uint64 9"]);
    }
}
