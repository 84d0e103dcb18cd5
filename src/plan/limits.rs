//! What is limited, and how: `linux.resources`, reduced to values for files.
//!
//! Runs outside, before anything exists. Pure: which hierarchies there are is a fact that comes in. The rows of
//! [`TABLE`] are the one place that knows a limit's field, check, v1 file and v2 file; `host/cgroup/` only writes.

use std::fmt;

use anyhow::{Context, Result, bail};
use oci_spec::runtime::LinuxResources;
use serde::Serialize;

use super::cgroup::{CgroupLayout, Version};
use super::device_rules::{self, DeviceRules, Verdict};
use super::facts::Authority;
use read::Asked;
use table::{File, Form, Missing, Row, TABLE};

mod conversions;
mod read;
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
    /// The value is what such a kernel does anyway.
    Skip,
    Write {
        file: String,
        value: String,
    },
}

impl Limits {
    /// Whether the configuration asks for no limit, so that a container may do without a group.
    pub fn is_empty(&self) -> bool {
        self.settings.is_empty()
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
    let version = match layout.version_of("devices") {
        Some(Version::V1) => Version::V1,
        // Not a controller on v2, so never listed as one: every group can have a program.
        _ => Version::V2,
    };
    // Only root of the initial user namespace may restrict devices; nobody else can make their nodes.
    Ok((authority == Authority::Root).then_some(DeviceLimits { version, rules }))
}

/// Everything but devices, which `update` changes without them.
pub fn settings(resources: &LinuxResources, layout: &CgroupLayout) -> Result<Vec<Setting>> {
    let mut settings = Vec::new();
    for row in TABLE {
        for asked in (row.read)(resources).with_context(|| format!("linux.resources.{}", row.field))? {
            let field = format!("linux.resources.{}{}", row.field, asked.at);
            let setting = row.setting(&asked, resources, layout, field.clone()).context(field)?;
            settings.extend(setting);
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

    /// Whose file it is on this host. A hybrid host has some controllers here and some there.
    fn version(&self, asked: &Asked, layout: &CgroupLayout) -> Result<Version> {
        let on = |form: &Form, version| match form {
            Form::File(file) => {
                let controller = file.controller(asked);
                let core = controller == "cgroup" && version == Version::V2 && layout.v2.is_some();
                core || layout.version_of(controller) == Some(version)
            }
            _ => false,
        };
        if on(&self.v1, Version::V1) {
            return Ok(Version::V1);
        }
        match (&self.v2, &self.v1) {
            (form, _) if on(form, Version::V2) => Ok(Version::V2),
            (Form::File(file), _) if layout.v2.is_some() => {
                bail!(
                    "{} needs the {} controller, which this host does not offer",
                    file.name(asked),
                    file.controller(asked)
                )
            }
            (_, Form::File(file)) if !layout.v1.is_empty() => {
                bail!(
                    "{} needs the {} controller, which is not mounted",
                    file.name(asked),
                    file.controller(asked)
                )
            }
            _ if layout.v2.is_some() => Ok(Version::V2),
            (_, Form::Impossible(reason)) => bail!("{reason}"),
            _ => bail!("no cgroup hierarchy is mounted at {}", layout.root.display()),
        }
    }
}

impl fmt::Display for Setting {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{} {}", self.file, self.value)
    }
}

/// One line for each write, as `corten plan` prints them.
impl fmt::Display for Limits {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(devices) = &self.devices {
            let (default, exceptions) = match devices.rules.default {
                Verdict::Deny => ("deny", "allow"),
                Verdict::Allow => ("allow", "deny"),
            };
            writeln!(out, "limit  devices.{default} a")?;
            for exception in &devices.rules.exceptions {
                writeln!(out, "limit  devices.{exceptions} {exception}")?;
            }
        }
        self.settings.iter().try_for_each(|setting| writeln!(out, "limit  {setting}"))
    }
}
