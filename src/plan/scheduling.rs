//! When and where the kernel runs the process: scheduler, I/O priority, memory policy, CPU affinity.
//!
//! Runs outside. Owns the tables of names, of which `features` prints those of memory policies.

use anyhow::{Context, Result, ensure};
use oci_spec::runtime::{LinuxMemoryPolicy, Process, Scheduler};

use super::request::Request;
use super::steps::Steps;
use super::{Action, SchedulerAttributes};

/// linux/sched.h
const POLICIES: &[(&str, u32)] = &[
    ("SCHED_OTHER", OTHER),
    ("SCHED_FIFO", FIFO),
    ("SCHED_RR", ROUND_ROBIN),
    ("SCHED_BATCH", BATCH),
    ("SCHED_ISO", 4),
    ("SCHED_IDLE", 5),
    ("SCHED_DEADLINE", DEADLINE),
];
const OTHER: u32 = 0;
const FIFO: u32 = 1;
const ROUND_ROBIN: u32 = 2;
const BATCH: u32 = 3;
const DEADLINE: u32 = 6;

/// linux/sched.h, as the specification names them; the types spell one differently.
const FLAGS: &[(&str, u64)] = &[
    ("SCHED_RESET_ON_FORK", 0x01),
    ("SCHED_FLAG_RECLAIM", 0x02),
    ("SCHED_FLAG_DL_OVERRUN", 0x04),
    ("SCHED_FLAG_D_L_OVERRUN", 0x04),
    ("SCHED_FLAG_KEEP_POLICY", 0x08),
    ("SCHED_FLAG_KEEP_PARAMS", 0x10),
    ("SCHED_FLAG_UTIL_CLAMP_MIN", 0x20),
    ("SCHED_FLAG_UTIL_CLAMP_MAX", 0x40),
];

/// linux/ioprio.h
const IO_CLASSES: &[(&str, i32)] =
    &[("IOPRIO_CLASS_RT", 1), ("IOPRIO_CLASS_BE", 2), ("IOPRIO_CLASS_IDLE", 3)];
const IO_CLASS_SHIFT: i32 = 13;

/// A mode of set_mempolicy(2).
#[derive(Debug)]
pub struct MemoryMode {
    pub name: &'static str,
    value: i32,
    nodes: Nodes,
    /// The Linux version that brought it.
    since: (u32, u32),
}

#[derive(Debug, PartialEq, Eq)]
enum Nodes {
    None,
    Optional,
    Needed,
}

/// linux/mempolicy.h
pub const MEMORY_MODES: &[MemoryMode] = &[
    MemoryMode { name: "MPOL_DEFAULT", value: 0, nodes: Nodes::None, since: (2, 6) },
    MemoryMode { name: "MPOL_BIND", value: 2, nodes: Nodes::Needed, since: (2, 6) },
    MemoryMode { name: "MPOL_INTERLEAVE", value: 3, nodes: Nodes::Needed, since: (2, 6) },
    MemoryMode { name: "MPOL_WEIGHTED_INTERLEAVE", value: 6, nodes: Nodes::Needed, since: (6, 9) },
    MemoryMode { name: "MPOL_PREFERRED", value: 1, nodes: Nodes::Optional, since: (2, 6) },
    MemoryMode { name: "MPOL_PREFERRED_MANY", value: 5, nodes: Nodes::Needed, since: (5, 15) },
    MemoryMode { name: "MPOL_LOCAL", value: 4, nodes: Nodes::None, since: (3, 8) },
];

pub const MEMORY_FLAGS: &[(&str, i32)] = &[
    ("MPOL_F_NUMA_BALANCING", 1 << 13),
    ("MPOL_F_RELATIVE_NODES", RELATIVE_NODES),
    ("MPOL_F_STATIC_NODES", STATIC_NODES),
];
const RELATIVE_NODES: i32 = 1 << 14;
const STATIC_NODES: i32 = 1 << 15;

/// More CPUs and nodes than any kernel is built for.
const MOST_UNITS: usize = 8192;

pub fn plan(request: &Request, process: &Process, steps: &mut Steps) -> Result<()> {
    if let Some(scheduler) = process.scheduler() {
        steps.every(Action::Scheduler(attributes(scheduler)?));
    }
    if let Some(wanted) = process.io_priority() {
        let class = look_up(IO_CLASSES, &wanted.class().to_string()).context("process.ioPriority.class")?;
        let priority = wanted.priority();
        ensure!((0..=7).contains(&priority), "process.ioPriority.priority: {priority} is not within 0 and 7");
        steps.every(Action::IoPriority { value: class << IO_CLASS_SHIFT | priority as i32 });
    }
    let policy = request.linux().and_then(|linux| linux.memory_policy().as_ref());
    if let Some(policy) = policy {
        steps.every(memory_policy(request, policy)?);
    }
    Ok(())
}

fn look_up<T: Copy>(table: &[(&str, T)], name: &str) -> Result<T> {
    let found = table.iter().find(|(known, _)| *known == name);
    found.map(|(_, value)| *value).with_context(|| format!("{name:?} is not known"))
}

fn attributes(scheduler: &Scheduler) -> Result<SchedulerAttributes> {
    let name = scheduler.policy().to_string();
    let policy = look_up(POLICIES, &name).context("process.scheduler.policy")?;
    let nice = scheduler.nice().unwrap_or(0);
    if nice != 0 {
        ensure!([OTHER, BATCH].contains(&policy), "process.scheduler.nice: means nothing to {name}");
        ensure!((-20..=19).contains(&nice), "process.scheduler.nice: {nice} is not within -20 and 19");
    }
    let priority = scheduler.priority().unwrap_or(0);
    if priority != 0 {
        let realtime = [FIFO, ROUND_ROBIN].contains(&policy);
        ensure!(realtime, "process.scheduler.priority: means nothing to {name}");
        ensure!(
            (1..=99).contains(&priority),
            "process.scheduler.priority: {priority} is not within 1 and 99"
        );
    }
    let time = |value: &Option<u64>, member: &str| {
        let value = value.unwrap_or(0);
        ensure!(value == 0 || policy == DEADLINE, "process.scheduler.{member}: means nothing to {name}");
        Ok(value)
    };
    let mut flags = 0;
    for (index, flag) in scheduler.flags().iter().flatten().enumerate() {
        flags |=
            look_up(FLAGS, &flag.to_string()).with_context(|| format!("process.scheduler.flags[{index}]"))?;
    }
    Ok(SchedulerAttributes {
        policy,
        flags,
        nice,
        priority: priority as u32,
        runtime: time(scheduler.runtime(), "runtime")?,
        deadline: time(scheduler.deadline(), "deadline")?,
        period: time(scheduler.period(), "period")?,
    })
}

fn memory_policy(request: &Request, policy: &LinuxMemoryPolicy) -> Result<Action> {
    let name = policy.mode().to_string();
    let mode = MEMORY_MODES.iter().find(|mode| mode.name == name);
    let mode = mode.with_context(|| format!("linux.memoryPolicy.mode: {name:?} is not known"))?;
    let (version, patch_level) = mode.since;
    ensure!(
        request.facts.kernel_at_least(version, patch_level),
        "linux.memoryPolicy.mode: {name} needs Linux {version}.{patch_level} or later"
    );
    let listed = policy.nodes().as_deref().unwrap_or_default();
    match mode.nodes {
        Nodes::None => ensure!(listed.is_empty(), "linux.memoryPolicy.nodes: {name} takes none"),
        Nodes::Needed => ensure!(!listed.is_empty(), "linux.memoryPolicy.nodes: {name} needs some"),
        Nodes::Optional => {}
    }
    let mut value = mode.value;
    for (index, flag) in policy.flags().iter().flatten().enumerate() {
        value |= look_up(MEMORY_FLAGS, &flag.to_string())
            .with_context(|| format!("linux.memoryPolicy.flags[{index}]"))?;
    }
    let both = STATIC_NODES | RELATIVE_NODES;
    ensure!(
        value & both != both,
        "linux.memoryPolicy.flags: MPOL_F_STATIC_NODES and MPOL_F_RELATIVE_NODES exclude each other"
    );
    let nodes = units(listed).context("linux.memoryPolicy.nodes")?;
    let mut words = vec![0_u64; nodes.iter().max().map_or(0, |last| last / 64 + 1)];
    for node in nodes {
        words[node / 64] |= 1 << (node % 64);
    }
    Ok(Action::MemoryPolicy { mode: value, nodes: words })
}

/// The CPUs of a list as sched_setaffinity(2) takes them: bit n, lowest byte first, is CPU n.
pub fn mask(list: &str) -> Result<Vec<u8>> {
    let cpus = units(list)?;
    let mut mask = vec![0_u8; cpus.iter().max().map_or(0, |last| last / 8 + 1)];
    for cpu in cpus {
        mask[cpu / 8] |= 1 << (cpu % 8);
    }
    ensure!(!mask.is_empty(), "must name a CPU");
    Ok(mask)
}

/// The numbers of a list such as `0-3,7`.
pub fn units(list: &str) -> Result<Vec<usize>> {
    let mut units = Vec::new();
    for range in list.split(',').map(str::trim).filter(|range| !range.is_empty()) {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let number = |digits: &str| {
            let number = digits.parse::<usize>().ok().filter(|number| *number < MOST_UNITS);
            number.with_context(|| format!("{range:?} is not a number or a range below {MOST_UNITS}"))
        };
        let (first, last) = (number(first)?, number(last)?);
        ensure!(first <= last, "{range:?} ends before it begins");
        units.extend(first..=last);
    }
    Ok(units)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::plan::bundle::parse_process;
    use crate::plan::testing::Given;

    fn planned(process: Value, linux: Value) -> Result<Vec<Action>> {
        let mut whole = json!({"cwd": "/", "args": ["true"]});
        process.as_object().unwrap().iter().for_each(|(name, member)| whole[name] = member.clone());
        let (process, _) = parse_process(whole.to_string().as_bytes()).unwrap();
        let given = Given::new(json!({"linux": linux}));
        let mut steps = Steps::new(given.facts.authority);
        plan(&given.request(), &process, &mut steps)?;
        Ok(steps.finish().steps.into_iter().map(|step| step.action).collect())
    }

    #[test]
    fn a_scheduler_is_what_the_kernel_calls_it() {
        let scheduler = json!({
            "policy": "SCHED_DEADLINE", "flags": ["SCHED_FLAG_RESET_ON_FORK", "SCHED_FLAG_RECLAIM"],
            "runtime": 10, "deadline": 20, "period": 30,
        });
        let actions = planned(json!({"scheduler": scheduler}), json!({})).unwrap();
        let Action::Scheduler(attributes) = actions[0] else { panic!("{actions:?}") };
        let expected = SchedulerAttributes {
            policy: 6,
            flags: 3,
            runtime: 10,
            deadline: 20,
            period: 30,
            ..Default::default()
        };
        assert_eq!(attributes, expected);
    }

    #[test]
    fn an_io_priority_is_a_class_and_a_level_in_one_number() {
        let priority = json!({"class": "IOPRIO_CLASS_IDLE", "priority": 7});
        let actions = planned(json!({"ioPriority": priority}), json!({})).unwrap();
        assert!(matches!(actions[0], Action::IoPriority { value } if value == (3 << 13 | 7)), "{actions:?}");
    }

    #[test]
    fn a_memory_policy_is_a_mode_with_its_flags_and_a_mask_of_nodes() {
        let policy = json!({"mode": "MPOL_INTERLEAVE", "nodes": "0-1,64", "flags": ["MPOL_F_STATIC_NODES"]});
        let actions = planned(json!({}), json!({"memoryPolicy": policy})).unwrap();
        let Action::MemoryPolicy { mode, nodes } = &actions[0] else { panic!("{actions:?}") };
        assert_eq!((*mode, nodes.as_slice()), (3 | STATIC_NODES, [0b11, 0b1].as_slice()));
    }

    #[test]
    fn flags_that_exclude_each_other_and_modes_from_the_future_are_refused() {
        let flags = json!(["MPOL_F_STATIC_NODES", "MPOL_F_RELATIVE_NODES"]);
        let both = json!({"mode": "MPOL_BIND", "nodes": "0", "flags": flags});
        let refused = planned(json!({}), json!({"memoryPolicy": both})).unwrap_err();
        assert!(refused.to_string().contains("exclude each other"), "{refused}");

        let policy = json!({"mode": "MPOL_WEIGHTED_INTERLEAVE", "nodes": "0"});
        let mut given = Given::new(json!({"linux": {"memoryPolicy": policy}}));
        given.facts.kernel = (6, 8);
        let policy = given.request().linux().unwrap().memory_policy().as_ref().unwrap();
        let refused = memory_policy(&given.request(), policy).unwrap_err();
        assert_eq!(
            refused.to_string(),
            "linux.memoryPolicy.mode: MPOL_WEIGHTED_INTERLEAVE needs Linux 6.9 or later"
        );
    }

    #[test]
    fn a_list_of_cpus_is_a_mask_of_bytes() {
        assert_eq!(mask("0-2, 9").unwrap(), [0b111, 0b10]);
        for wrong in ["", "a", "1-", "9-1", "99999"] {
            mask(wrong).unwrap_err();
        }
    }
}
