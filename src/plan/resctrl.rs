//! Resource control groups (Intel RDT): which group of resctrl a container belongs to, and what that is told.
//!
//! Runs outside. Where the filesystem is mounted, and whether a group is there, `host/resctrl.rs` sees.

use anyhow::{Result, ensure};
use oci_spec::runtime::LinuxIntelRdt;

use super::request::Request;

/// What the kernel has in a group's directory beside groups.
const RESERVED: &[&str] = &["info", "mon_data", "mon_groups"];

/// The member in which all of this stands.
pub const MEMBER: &str = "linux.intelRdt";

/// The group of a container (config-linux.md, IntelRdt).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResctrlPlan {
    /// A directory's name, or nothing for the root group.
    pub group: String,
    /// The configuration names the group, so it is somebody's and outlives the container.
    pub named: bool,
    /// Lines for the group's `schemata`.
    pub schemata: Vec<String>,
    /// Lines that a named group which exists must have already.
    pub expected: Vec<String>,
    /// A monitoring group of its own, below the group.
    pub monitor: Option<String>,
}

pub fn plan(request: &Request) -> Result<Option<ResctrlPlan>> {
    let asked = request.linux().and_then(|linux| linux.intel_rdt().as_ref());
    asked.map(|asked| group(asked, request.id)).transpose()
}

fn group(asked: &LinuxIntelRdt, id: &str) -> Result<ResctrlPlan> {
    let named = asked.clos_id().as_deref().filter(|name| !name.is_empty());
    let name = named.unwrap_or(id);
    let root = name == "/";
    if !root {
        let plain = !name.contains(['/', '\n']) && name != "." && name != "..";
        ensure!(plain && name.len() <= 255, "{MEMBER}.closID: {name:?} is not the name of a directory");
        ensure!(!RESERVED.contains(&name), "{MEMBER}.closID: {name:?} is a name that the kernel uses itself");
    }
    let expected = class_lines(asked)?;
    let mut schemata = expected.clone();
    for (index, line) in asked.schemata().iter().flatten().enumerate() {
        ensure!(!line.contains('\n'), "{MEMBER}.schemata[{index}]: has more than one line");
        schemata.push(line.clone());
    }
    let monitored = asked.enable_monitoring().unwrap_or(false);
    Ok(ResctrlPlan {
        group: if root { String::new() } else { name.to_string() },
        named: named.is_some(),
        schemata,
        expected,
        monitor: monitored.then(|| id.to_string()),
    })
}

/// The lines of `l3CacheSchema` and `memBwSchema`; of two on memory bandwidth the latter's counts.
pub fn class_lines(asked: &LinuxIntelRdt) -> Result<Vec<String>> {
    const BANDWIDTH: &str = "MB:";
    let cache = asked.l3_cache_schema().as_deref().unwrap_or_default();
    let bandwidth = asked.mem_bw_schema().as_deref().unwrap_or_default();
    let whole = bandwidth.is_empty() || (bandwidth.starts_with(BANDWIDTH) && !bandwidth.contains('\n'));
    ensure!(whole, "{MEMBER}.memBwSchema: {bandwidth:?} is not one line that begins with {BANDWIDTH}");
    let cache = cache.lines().map(str::trim).filter(|line| !line.is_empty());
    let lines = cache.filter(|line| bandwidth.is_empty() || !line.starts_with(BANDWIDTH));
    Ok(lines.chain(Some(bandwidth).filter(|line| !line.is_empty())).map(str::to_string).collect())
}

/// The first of `expected` that a group with this text in its `schemata` does not have.
pub fn mismatch<'a>(expected: &'a [String], present: &str) -> Option<&'a str> {
    let present: Vec<(&str, Vec<(&str, &str)>)> = present.lines().filter_map(parse_line).collect();
    let holds = |line: &str| {
        let Some((resource, values)) = parse_line(line) else { return false };
        let there = present.iter().find(|(known, _)| *known == resource);
        there.is_some_and(|(_, there)| values.iter().all(|value| there.contains(value)))
    };
    expected.iter().map(String::as_str).find(|line| !holds(line))
}

/// `L3:0=00ff;1=c0` as its resource and its values by domain, without leading zeros.
fn parse_line(line: &str) -> Option<(&str, Vec<(&str, &str)>)> {
    let (resource, values) = line.trim().split_once(':')?;
    let values = values.split(';').filter(|value| !value.trim().is_empty()).map(|value| {
        let (domain, value) = value.split_once('=')?;
        Some((domain.trim(), value.trim().trim_start_matches('0')))
    });
    values.collect::<Option<_>>().map(|values| (resource, values))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::plan::testing::Given;

    fn planned(asked: Value) -> Result<ResctrlPlan> {
        plan(&Given::new(json!({"linux": {"intelRdt": asked}})).request()).map(|plan| plan.unwrap())
    }

    #[test]
    fn without_a_name_the_group_is_the_containers_own() {
        let plan = planned(json!({"enableMonitoring": true})).unwrap();
        assert_eq!((plan.group.as_str(), plan.named), ("web", false));
        assert_eq!(plan.monitor.as_deref(), Some("web"));
        let named = planned(json!({"closID": "gold"})).unwrap();
        assert_eq!((named.group.as_str(), named.named, named.monitor), ("gold", true, None));
        assert_eq!(planned(json!({"closID": "/"})).unwrap().group, "");
    }

    #[test]
    fn older_words_for_monitoring_still_mean_it() {
        for word in ["enableCMT", "enableMBM"] {
            assert!(planned(json!({word: true})).unwrap().monitor.is_some(), "{word}");
            assert!(planned(json!({word: false})).unwrap().monitor.is_none(), "{word}");
        }
    }

    #[test]
    fn schemata_come_last_and_bandwidth_is_said_once() {
        let plan = planned(json!({
            "l3CacheSchema": "L3:0=f;1=f0\nMB:0=10", "memBwSchema": "MB:0=20;1=70", "schemata": ["L2:0=1", "MB:0=30"],
        }))
        .unwrap();
        assert_eq!(plan.expected, ["L3:0=f;1=f0", "MB:0=20;1=70"]);
        assert_eq!(plan.schemata, ["L3:0=f;1=f0", "MB:0=20;1=70", "L2:0=1", "MB:0=30"]);
        let alone = planned(json!({"l3CacheSchema": "L3:0=f\nMB:0=10"})).unwrap();
        assert_eq!(alone.schemata, ["L3:0=f", "MB:0=10"]);
    }

    #[test]
    fn what_is_no_group_and_no_line_is_refused_by_its_place() {
        let refusal = |asked: Value| planned(asked).unwrap_err().to_string();
        for name in ["a/b", ".", "..", "../gold"] {
            assert!(refusal(json!({"closID": name})).contains("is not the name of a directory"), "{name}");
        }
        assert!(refusal(json!({"closID": "info"})).contains("the kernel uses itself"));
        assert!(refusal(json!({"memBwSchema": "L3:0=1"})).starts_with("linux.intelRdt.memBwSchema: "));
        assert!(
            refusal(json!({"memBwSchema": "MB:0=1\nMB:1=1"})).starts_with("linux.intelRdt.memBwSchema: ")
        );
        assert_eq!(
            refusal(json!({"schemata": ["L3:0=1", "a\nb"]})),
            "linux.intelRdt.schemata[1]: has more than one line"
        );
    }

    #[test]
    fn lines_are_compared_by_what_they_mean() {
        let present = "    L3:0=00f;1=fff\n    MB:0= 20;1=100\n";
        let expected = |line: &str| mismatch(&[line.to_string()], present).is_none();
        assert!(expected("L3:0=f"));
        assert!(expected("L3:1=fff;0=0f"));
        assert!(expected("MB:0=20;1=100"));
        assert!(!expected("L3:0=e"));
        assert!(!expected("L2:0=f"));
        assert!(!expected("L3:2=f"));
        assert!(!expected("nonsense"));
    }
}
