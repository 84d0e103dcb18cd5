//! Resource limits of the process (setrlimit(2)), set while it may still raise them.
//!
//! Runs outside. Owns the table of names.

use anyhow::{Result, bail, ensure};
use oci_spec::runtime::Process;

use super::Action;
use super::steps::Steps;

pub const RESOURCES: &[(&str, u32)] = &[
    ("RLIMIT_AS", libc::RLIMIT_AS),
    ("RLIMIT_CORE", libc::RLIMIT_CORE),
    ("RLIMIT_CPU", libc::RLIMIT_CPU),
    ("RLIMIT_DATA", libc::RLIMIT_DATA),
    ("RLIMIT_FSIZE", libc::RLIMIT_FSIZE),
    ("RLIMIT_LOCKS", libc::RLIMIT_LOCKS),
    ("RLIMIT_MEMLOCK", libc::RLIMIT_MEMLOCK),
    ("RLIMIT_MSGQUEUE", libc::RLIMIT_MSGQUEUE),
    ("RLIMIT_NICE", libc::RLIMIT_NICE),
    ("RLIMIT_NOFILE", libc::RLIMIT_NOFILE),
    ("RLIMIT_NPROC", libc::RLIMIT_NPROC),
    ("RLIMIT_RSS", libc::RLIMIT_RSS),
    ("RLIMIT_RTPRIO", libc::RLIMIT_RTPRIO),
    ("RLIMIT_RTTIME", libc::RLIMIT_RTTIME),
    ("RLIMIT_SIGPENDING", libc::RLIMIT_SIGPENDING),
    ("RLIMIT_STACK", libc::RLIMIT_STACK),
];

pub fn plan(process: &Process, steps: &mut Steps) -> Result<()> {
    let limits = process.rlimits().as_deref().unwrap_or_default();
    for (index, limit) in limits.iter().enumerate() {
        let name = limit.typ().to_string();
        let Some((_, resource)) = RESOURCES.iter().find(|(known, _)| *known == name) else {
            bail!("process.rlimits[{index}].type: {name:?} is not a limit Linux knows");
        };
        let earlier = limits[..index].iter().position(|earlier| earlier.typ() == limit.typ());
        if let Some(earlier) = earlier {
            bail!("process.rlimits[{index}]: {name} is already given by process.rlimits[{earlier}]");
        }
        let (soft, hard) = (limit.soft(), limit.hard());
        ensure!(soft <= hard, "process.rlimits[{index}].soft: {soft} is above the hard limit {hard}");
        steps.every(Action::Rlimit { resource: *resource, soft, hard });
    }
    Ok(())
}

/// A limit's name, for printing.
pub fn name(resource: u32) -> &'static str {
    RESOURCES.iter().find(|(_, known)| *known == resource).map_or("RLIMIT_?", |(name, _)| name)
}
