//! Resource limits of the process (setrlimit(2)), set while it may still raise them.
//!
//! Runs outside. Owns the table of names.

use anyhow::{Result, bail, ensure};
use nix::sys::resource::Resource;
use oci_spec::runtime::Process;

use super::Action;
use super::steps::Steps;

pub const RESOURCES: &[(&str, Resource)] = &[
    ("RLIMIT_AS", Resource::RLIMIT_AS),
    ("RLIMIT_CORE", Resource::RLIMIT_CORE),
    ("RLIMIT_CPU", Resource::RLIMIT_CPU),
    ("RLIMIT_DATA", Resource::RLIMIT_DATA),
    ("RLIMIT_FSIZE", Resource::RLIMIT_FSIZE),
    ("RLIMIT_LOCKS", Resource::RLIMIT_LOCKS),
    ("RLIMIT_MEMLOCK", Resource::RLIMIT_MEMLOCK),
    ("RLIMIT_MSGQUEUE", Resource::RLIMIT_MSGQUEUE),
    ("RLIMIT_NICE", Resource::RLIMIT_NICE),
    ("RLIMIT_NOFILE", Resource::RLIMIT_NOFILE),
    ("RLIMIT_NPROC", Resource::RLIMIT_NPROC),
    ("RLIMIT_RSS", Resource::RLIMIT_RSS),
    ("RLIMIT_RTPRIO", Resource::RLIMIT_RTPRIO),
    ("RLIMIT_RTTIME", Resource::RLIMIT_RTTIME),
    ("RLIMIT_SIGPENDING", Resource::RLIMIT_SIGPENDING),
    ("RLIMIT_STACK", Resource::RLIMIT_STACK),
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
pub fn name(resource: Resource) -> &'static str {
    RESOURCES.iter().find(|(_, known)| *known == resource).map_or("RLIMIT_?", |(name, _)| name)
}
