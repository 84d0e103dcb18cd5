//! What is limited, and how: `linux.resources`, reduced to values for files.
//!
//! Runs outside, before anything exists. Pure: which hierarchies there are is a fact that comes in. The rows of
//! [`TABLE`] are the one place that knows a limit's field, check, v1 file and v2 file; `host/cgroup/` only writes.

use std::fmt;

use anyhow::{Context, Result, anyhow, bail};
use oci_spec::runtime::LinuxResources;
use serde::Serialize;

use super::cgroup::{CgroupLayout, Version};
use super::device_rules::{self, DeviceRules, Verdict};
use super::facts::Authority;
use read::Asked;
pub use shape::settle;
use table::{File, Form, Missing, Row, TABLE};

mod conversions;
mod read;
mod shape;
mod table;

/// All that a container's groups are told.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Limits {
    /// `None` where nobody could enforce them, and for an update, which leaves them alone.
    pub devices: Option<DeviceLimits>,
    /// In the order in which they are written.
    pub settings: Vec<Setting>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct DeviceLimits {
    /// v1 has files for them, v2 takes a BPF program.
    pub version: Version,
    pub rules: DeviceRules,
}

/// A value for a file of a group.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Setting {
    /// The JSON path of what was asked, which every error names.
    pub field: String,
    pub version: Version,
    /// Which v1 hierarchy the file is in, or which v2 controller must be enabled for it to exist.
    pub controller: String,
    pub file: String,
    pub value: String,
    /// What to do on a kernel that has no such file.
    #[serde(skip)]
    pub otherwise: Otherwise,
    /// A file with the present use: refuse to set a limit below it (`checkBeforeUpdate`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub not_below: Option<&'static str>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Otherwise {
    Refuse,
    /// The same, and where it is there, read whether the value was taken.
    Doubt,
    /// The value is what such a kernel does anyway.
    Skip,
    Write {
        file: String,
        value: String,
    },
}

impl Limits {
    /// Whether there is nothing to hold a container to, so that it may do without a group.
    pub fn is_empty(&self) -> bool {
        self.devices.is_none() && self.settings.is_empty()
    }
}

/// The limits of `linux.resources` on a host with these hierarchies.
pub fn plan(
    resources: Option<&LinuxResources>,
    layout: &CgroupLayout,
    authority: Authority,
) -> Result<Limits> {
    let absent = LinuxResources::default();
    let resources = resources.unwrap_or(&absent);
    Ok(Limits {
        devices: plan_devices(resources, layout, authority)?,
        settings: settings(resources, layout)?,
    })
}

fn plan_devices(
    resources: &LinuxResources,
    layout: &CgroupLayout,
    authority: Authority,
) -> Result<Option<DeviceLimits>> {
    let rules = device_rules::plan(resources.devices().as_deref().unwrap_or_default())?;
    // On v2 it is no controller, and never listed as one: every group can have a program.
    let version = if layout.has(Version::V1, "devices") { Version::V1 } else { Version::V2 };
    // Only root of the initial user namespace may restrict devices; nobody else can make their nodes.
    Ok((authority == Authority::Root).then_some(DeviceLimits { version, rules }))
}

/// Everything but devices, which `update` changes without them.
pub fn settings(resources: &LinuxResources, layout: &CgroupLayout) -> Result<Vec<Setting>> {
    let mut settings = Vec::new();
    for row in TABLE {
        let place = |at: &str| format!("linux.resources.{}{at}", row.field);
        for asked in
            (row.read)(resources).map_err(|wrong| anyhow!("{}: {}", place(&wrong.at), wrong.reason))?
        {
            let field = place(&asked.at);
            settings.extend(row.setting(&asked, resources, layout, field.clone()).context(field)?);
        }
    }
    raise_swap_first(&mut settings);
    Ok(settings)
}

/// v2 has separate limits for memory and swap: a lower memory limit pushes pages out at once, and should find the
/// new swap limit. v1 has one for their sum, which must not be below that for memory, in the order of the table.
fn raise_swap_first(settings: &mut [Setting]) {
    let position = |file| settings.iter().position(|setting| setting.file == file);
    if let (Some(memory), Some(swap)) = (position("memory.max"), position("memory.swap.max"))
        && memory < swap
    {
        settings[memory..=swap].rotate_right(1);
    }
}

impl Row {
    /// What a host with these hierarchies is told; nothing, where it is so anyway.
    fn setting(
        &self,
        asked: &Asked,
        resources: &LinuxResources,
        layout: &CgroupLayout,
        field: String,
    ) -> Result<Option<Setting>> {
        let version = self.version(asked, layout)?;
        let file = match if version == Version::V1 { &self.v1 } else { &self.v2 } {
            Form::File(file) => file,
            Form::Ignored => return Ok(None),
            Form::Fixed(value, _) if asked.number == *value => return Ok(None),
            Form::Fixed(_, reason) | Form::Impossible(reason) => bail!("{reason}"),
        };
        let render = |file: &File| (file.render)(asked, resources).map(|value| (file.name(asked), value));
        let Some((name, value)) = render(file) else { return Ok(None) };
        let otherwise = match file.missing {
            Missing::Doubt => Otherwise::Doubt,
            Missing::Skip => Otherwise::Skip,
            Missing::SkipIf(values) if values.contains(&value.as_str()) => Otherwise::Skip,
            Missing::Refuse | Missing::SkipIf(_) => Otherwise::Refuse,
            Missing::Instead(other) => match render(other) {
                Some((file, value)) => Otherwise::Write { file, value },
                None => Otherwise::Skip,
            },
        };
        let not_below = file.usage.filter(|_| read::memory(resources).check_before_update() == Some(true));
        let controller = file.controller(asked).to_string();
        Ok(Some(Setting { field, version, controller, file: name, value, otherwise, not_below }))
    }

    /// Whose form counts on this host. A hybrid host has some controllers here and some there.
    fn version(&self, asked: &Asked, layout: &CgroupLayout) -> Result<Version> {
        for (version, form) in [(Version::V1, &self.v1), (Version::V2, &self.v2)] {
            if let Form::File(file) = form
                && layout.has(version, file.controller(asked))
            {
                return Ok(version);
            }
        }
        let (version, form) = match &layout.v2 {
            Some(_) => (Version::V2, &self.v2),
            None => (Version::V1, &self.v1),
        };
        if let Form::File(file) = form {
            let (name, controller) = (file.name(asked), file.controller(asked));
            let there = if self.field == "unified" { " as cgroup v2" } else { "" };
            bail!("{name} needs the {controller} controller, which this host has not mounted{there}");
        }
        Ok(version)
    }
}

impl fmt::Display for Setting {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{} {}", self.file, self.value)
    }
}

/// One line for each thing that is written, as `corten plan` prints them.
impl fmt::Display for Limits {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(devices) = &self.devices {
            let (default, exceptions) = match devices.rules.default {
                Verdict::Deny => ("deny", "allow"),
                Verdict::Allow => ("allow", "deny"),
            };
            let subject = match devices.version {
                Version::V1 => "devices.",
                Version::V2 => "device program, ",
            };
            writeln!(out, "limit  {subject}{default} a")?;
            for exception in &devices.rules.exceptions {
                writeln!(out, "limit  {subject}{exceptions} {exception}")?;
            }
        }
        self.settings.iter().try_for_each(|setting| writeln!(out, "limit  {setting}"))
    }
}

#[cfg(test)]
mod tests;
