//! The container's unit: its name, its slice, and what systemd is told of it.
//!
//! Runs outside, before anything exists. Pure: `host/cgroup/scope.rs` has systemd make the unit and move the first
//! process there.

use std::fmt;
use std::path::PathBuf;

use anyhow::{Context, Result, bail, ensure};
use serde::{Deserialize, Serialize};

use super::annotations::{SYSTEMD_PROPERTY, SYSTEMD_SUBGROUP};
use super::device_rules::{DeviceClass, Exception, Verdict};
use super::facts::Authority;
use super::limits::{DeviceLimits, Limits};
use super::request::Request;
use variant::Variant;

pub mod properties;
pub mod variant;

/// A transient scope to be made.
#[derive(Clone, Debug, PartialEq)]
pub struct Scope {
    /// `engine-web.scope`
    pub name: String,
    pub slice: String,
    pub manager: Manager,
    /// In the order in which systemd is told.
    pub properties: Vec<Property>,
    /// A group below the unit's own, for the container (`run.oci.systemd.subgroup`).
    pub subgroup: Option<String>,
}

/// Which systemd.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Manager {
    System,
    /// The caller's own, to which a part of the groups is delegated.
    User,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Property {
    pub name: String,
    pub value: Variant,
    /// The first version of systemd that knows it. What an older one cannot be told is in the group's files only.
    pub since: u32,
}

/// All that corten needs of a scope is there.
const OLDEST: u32 = 218;
/// `char-MAJOR`, and `/dev/char/MAJOR:MINOR` without such a file on the host.
const DEVICES_SINCE: u32 = 240;

impl Property {
    pub fn new(name: &str, value: Variant) -> Property {
        Property { name: name.to_string(), value, since: OLDEST }
    }

    pub fn since(self, since: u32) -> Property {
        Property { since, ..self }
    }
}

impl Manager {
    pub fn of(authority: Authority) -> Manager {
        match authority {
            Authority::Root => Manager::System,
            Authority::NamespacedRoot | Authority::User => Manager::User,
        }
    }

    pub fn name(self) -> &'static str {
        match self {
            Manager::System => "the system's systemd",
            Manager::User => "the user's systemd",
        }
    }
}

impl Scope {
    /// Where its group is, for a systemd that begins at the root of the hierarchies.
    pub fn path(&self) -> Result<PathBuf> {
        let mut path = expand(&self.slice)?.join(&self.name);
        path.extend(&self.subgroup);
        Ok(path)
    }
}

impl fmt::Display for Property {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}={}", self.name, self.value)
    }
}

pub fn plan(request: &Request, limits: &Limits) -> Result<Scope> {
    let manager = Manager::of(request.facts.authority);
    let asked = request.linux().and_then(|linux| linux.cgroups_path().as_ref());
    let asked = asked.map(|path| path.to_str().context("linux.cgroupsPath: not UTF-8")).transpose()?;
    let (slice, name) = names(asked.unwrap_or_default(), request.id, manager)
        .with_context(|| format!("linux.cgroupsPath: {:?}", asked.unwrap_or_default()))?;
    let annotation = |name| request.spec.annotations().as_ref().and_then(|all| all.get(name));
    Ok(Scope {
        properties: properties(request, &slice, limits)?,
        subgroup: annotation(SYSTEMD_SUBGROUP).map(|text| subgroup(text)).transpose()?.flatten(),
        name,
        slice,
        manager,
    })
}

/// The slice and the unit's name, of `SLICE:PREFIX:NAME` (each but the name may be empty), which is runc's notation.
fn names(asked: &str, id: &str, manager: Manager) -> Result<(String, String)> {
    let parts: Vec<&str> = asked.split(':').collect();
    let (slice, prefix, name) = match parts.as_slice() {
        // Our own name for it has no letters that a unit may not have.
        [""] => ("", "corten", id.replace('+', "\\x2b")),
        [slice, prefix, name] => (*slice, *prefix, name.to_string()),
        _ => bail!("with --systemd-cgroup it has three parts, \"SLICE:PREFIX:NAME\""),
    };
    let slice = match (slice, manager) {
        ("", Manager::System) => "system.slice",
        ("", Manager::User) => "user.slice",
        (slice, _) => slice,
    };
    expand(slice)?;
    ensure!(!name.is_empty(), "the unit's name is missing");
    ensure!(
        !name.ends_with(".slice"),
        "{name:?} is a slice, and processes are in scopes: leave out the \".slice\""
    );
    let unit = if prefix.is_empty() { format!("{name}.scope") } else { format!("{prefix}-{name}.scope") };
    check_unit(&unit)?;
    Ok((slice.to_string(), unit))
}

/// systemd.unit(5): letters, digits and `:-_.\@`, up to 255 of them.
fn check_unit(name: &str) -> Result<()> {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || b":-_.\\@".contains(&byte);
    if let Some(wrong) = name.chars().find(|letter| !letter.is_ascii() || !fits(*letter as u8)) {
        bail!("a unit cannot be called {name:?}, for its {wrong:?}");
    }
    ensure!(name.len() <= 255, "a unit's name is not longer than 255 letters");
    Ok(())
}

/// The path of a slice: `a-b.slice` is below `a.slice`, and `-.slice` the root.
fn expand(slice: &str) -> Result<PathBuf> {
    let stem = slice.strip_suffix(".slice").filter(|stem| !stem.is_empty());
    let stem = stem.with_context(|| format!("{slice:?} is not a slice"))?;
    check_unit(slice)?;
    let mut path = PathBuf::new();
    if stem == "-" {
        return Ok(path);
    }
    let mut name = String::new();
    for part in stem.split('-') {
        ensure!(!part.is_empty(), "{slice:?} is not a slice: a part of its name is empty");
        name = if name.is_empty() { part.to_string() } else { format!("{name}-{part}") };
        path.push(format!("{name}.slice"));
    }
    Ok(path)
}

/// None for an empty name.
fn subgroup(name: &str) -> Result<Option<String>> {
    let plain = !name.contains('/') && name != "." && name != ".." && !name.starts_with("cgroup.");
    ensure!(plain, "annotations[{SYSTEMD_SUBGROUP:?}]: {name:?} is not the name of a directory");
    Ok((!name.is_empty()).then(|| name.to_string()))
}

/// By which a container's own unit is told from another of that name.
pub fn description(id: &str) -> String {
    format!("corten container {id}")
}

fn properties(request: &Request, slice: &str, limits: &Limits) -> Result<Vec<Property>> {
    let yes = |name| Property::new(name, Variant::Bool(true));
    let mut properties = vec![
        Property::new("Description", Variant::text(description(request.id))),
        Property::new("Slice", Variant::text(slice)),
        yes("Delegate"),
        yes("CPUAccounting"),
        yes("IOAccounting").since(230),
        yes("MemoryAccounting"),
        yes("TasksAccounting").since(227),
        Property::new("DefaultDependencies", Variant::Bool(false)),
        // Nobody is to be left with a unit whose first process was gone before it came.
        Property::new("CollectMode", Variant::text("inactive-or-failed")).since(236),
    ];
    properties.extend(limits.devices.as_ref().map(devices).unwrap_or_default());
    properties.extend(properties::of(&limits.settings));
    let mut annotations: Vec<_> = request.spec.annotations().iter().flatten().collect();
    annotations.sort();
    for (key, text) in annotations {
        if let Some(name) = key.strip_prefix(SYSTEMD_PROPERTY) {
            properties.push(annotated(name, text).with_context(|| format!("annotations[{key:?}]"))?);
        }
    }
    Ok(properties)
}

/// What a unit file would call `NAMESec` is a number of microseconds on the bus.
fn annotated(name: &str, text: &str) -> Result<Property> {
    ensure!(
        name.len() >= 3 && name.bytes().all(|byte| byte.is_ascii_alphabetic()),
        "{name:?} is not the name of a property"
    );
    let value = Variant::parse(text)?;
    match name.strip_suffix("Sec") {
        Some(stem) if stem.ends_with(|last: char| last.is_ascii_lowercase()) => {
            Ok(Property::new(&format!("{stem}USec"), microseconds(&value)?))
        }
        _ => Ok(Property::new(name, value)),
    }
}

fn microseconds(value: &Variant) -> Result<Variant> {
    let seconds = match value {
        Variant::Byte(number) => i128::from(*number),
        Variant::Int16(number) => i128::from(*number),
        Variant::Uint16(number) => i128::from(*number),
        Variant::Int32(number) => i128::from(*number),
        Variant::Uint32(number) => i128::from(*number),
        Variant::Int64(number) => i128::from(*number),
        Variant::Uint64(number) => i128::from(*number),
        // Saturates, and so do the others below.
        Variant::Double(number) if *number >= 0.0 => return Ok(Variant::Uint64((number * 1e6) as u64)),
        other => bail!("{other} is not a number of seconds"),
    };
    ensure!(seconds >= 0, "{seconds} is not a number of seconds");
    Ok(Variant::Uint64(u64::try_from(seconds * 1_000_000).unwrap_or(u64::MAX)))
}

/// The list before the policy: systemd tells a unit with a policy and no list to be reloaded (runc issue 4568).
/// A list of what is denied cannot be said; the group's own program enforces it, as it does everything else.
fn devices(devices: &DeviceLimits) -> Vec<Property> {
    let rules = &devices.rules;
    let list = |entries: Vec<Variant>| {
        Property::new("DeviceAllow", Variant::Array("(ss)".into(), entries)).since(DEVICES_SINCE)
    };
    let policy = |policy| Property::new("DevicePolicy", Variant::text(policy)).since(DEVICES_SINCE);
    match rules.default {
        Verdict::Allow => vec![list(Vec::new()), policy("auto")],
        Verdict::Deny => {
            let entries = rules.exceptions.iter().filter_map(|exception| {
                let words = [device(exception)?, exception.access.to_string()];
                Some(Variant::Struct(words.map(Variant::Text).into()))
            });
            vec![list(entries.collect()), policy("strict")]
        }
    }
}

/// In the notation of `DeviceAllow` (systemd.resource-control(5)), which has none for a minor number of every major.
fn device(exception: &Exception) -> Option<String> {
    let class = match exception.class {
        DeviceClass::Character => "char",
        DeviceClass::Block => "block",
    };
    match (exception.major, exception.minor) {
        (None, None) => Some(format!("{class}-*")),
        (Some(major), None) => Some(format!("{class}-{major}")),
        (Some(major), Some(minor)) => Some(format!("/dev/{class}/{major}:{minor}")),
        (None, Some(_)) => None,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::super::cgroup::{CgroupLayout, Hierarchy};
    use super::super::limits;
    use super::super::testing::Given;
    use super::*;

    fn scope(mut config: Value, authority: Authority) -> Result<Scope> {
        config["linux"]["resources"]["devices"] = json!([{"allow": false}]);
        let given = Given::new(config).run_by(authority);
        let controllers = ["cpu", "cpuset", "io", "memory", "pids"].map(String::from).to_vec();
        let v2 = Hierarchy { controllers, directory: PathBuf::new() };
        let layout = CgroupLayout { v2: Some(v2), ..CgroupLayout::default() };
        let resources = given.spec.linux().as_ref().unwrap().resources().as_ref();
        let limits = limits::plan(resources, &layout, authority).unwrap();
        plan(&given.request(), &limits)
    }

    fn at(path: &str) -> Result<Scope> {
        scope(json!({"linux": {"cgroupsPath": path}}), Authority::Root)
    }

    #[test]
    fn a_unit_is_named_as_runc_names_it() {
        for (asked, name, path) in [
            ("system.slice:docker:1234", "docker-1234.scope", "system.slice/docker-1234.scope"),
            (":docker:1234", "docker-1234.scope", "system.slice/docker-1234.scope"),
            ("machine.slice::web", "web.scope", "machine.slice/web.scope"),
            ("a-b-c.slice:p:n", "p-n.scope", "a.slice/a-b.slice/a-b-c.slice/p-n.scope"),
            ("-.slice:p:n", "p-n.scope", "p-n.scope"),
            (
                "kubepods-burstable-pod1_2.slice:cri-containerd:0",
                "cri-containerd-0.scope",
                "kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod1_2.slice/cri-containerd-0.scope",
            ),
            ("", "corten-web.scope", "system.slice/corten-web.scope"),
        ] {
            let scope = at(asked).unwrap();
            assert_eq!((scope.name.as_str(), scope.path().unwrap()), (name, PathBuf::from(path)), "{asked}");
        }
        let (slice, name) = names("", "a+b", Manager::User).unwrap();
        assert_eq!((slice.as_str(), name.as_str()), ("user.slice", "corten-a\\x2bb.scope"));
    }

    #[test]
    fn what_cannot_be_a_unit_is_refused() {
        for (asked, reason) in [
            ("/web", "\"SLICE:PREFIX:NAME\""),
            ("a:b", "\"SLICE:PREFIX:NAME\""),
            ("a:b:c:d", "\"SLICE:PREFIX:NAME\""),
            ("system:p:n", "\"system\" is not a slice"),
            (".slice:p:n", "\".slice\" is not a slice"),
            ("a/b.slice:p:n", "for its '/'"),
            ("../x.slice:p:n", "for its '/'"),
            ("a--b.slice:p:n", "a part of its name is empty"),
            ("-a.slice:p:n", "a part of its name is empty"),
            ("a-.slice:p:n", "a part of its name is empty"),
            ("system.slice:p:", "the unit's name is missing"),
            ("system.slice:p:n/../m", "for its '/'"),
            ("system.slice:p:é", "for its 'é'"),
            ("system.slice:p:n.slice", "processes are in scopes"),
            (&format!("system.slice:p:{}", "n".repeat(255)), "not longer than 255"),
        ] {
            let error = format!("{:#}", at(asked).unwrap_err());
            assert!(error.starts_with("linux.cgroupsPath: ") && error.contains(reason), "{asked}: {error}");
        }
    }

    #[test]
    fn annotations_become_properties() {
        for (name, text, expected) in [
            ("KillSignal", "15", "KillSignal=15"),
            ("CollectMode", "'inactive-or-failed'", "CollectMode='inactive-or-failed'"),
            ("TimeoutStopSec", "5", "TimeoutStopUSec=uint64 5000000"),
            ("TimeoutStopSec", "uint64 18446744073709551615", "TimeoutStopUSec=uint64 18446744073709551615"),
            ("RuntimeMaxSec", "1.5", "RuntimeMaxUSec=uint64 1500000"),
            ("TimeoutStopUSec", "uint64 7", "TimeoutStopUSec=uint64 7"),
            ("After", "['a.service', 'b.service']", "After=['a.service', 'b.service']"),
        ] {
            assert_eq!(annotated(name, text).unwrap().to_string(), expected);
        }
        for (name, text) in [
            ("K", "1"),
            ("Kill Signal", "1"),
            ("Kill1", "1"),
            ("TimeoutStopSec", "'5'"),
            ("TimeoutSec", "-1"),
        ] {
            annotated(name, text).unwrap_err();
        }
        let config = json!({"linux": {}, "annotations": {"org.systemd.property.A-B": "1"}});
        let error = format!("{:#}", scope(config, Authority::Root).unwrap_err());
        assert_eq!(error, r#"annotations["org.systemd.property.A-B"]: "A-B" is not the name of a property"#);
    }

    #[test]
    fn a_subgroup_is_one_directory() {
        let named = |name: &str| {
            let config = json!({"linux": {}, "annotations": {"run.oci.systemd.subgroup": name}});
            scope(config, Authority::Root)
        };
        assert_eq!(named("container").unwrap().subgroup.as_deref(), Some("container"));
        assert!(named("container").unwrap().path().unwrap().ends_with("corten-web.scope/container"));
        assert_eq!(named("").unwrap().subgroup, None);
        for refused in ["..", "a/b", "/", "cgroup.procs"] {
            named(refused).unwrap_err();
        }
    }

    #[test]
    fn systemd_hears_of_devices_before_it_hears_of_their_policy() {
        let printed = |authority| {
            let scope = scope(json!({"linux": {}}), authority).unwrap();
            scope.properties.iter().map(Property::to_string).collect::<Vec<_>>()
        };
        let properties = printed(Authority::Root);
        let at = |start: &str| properties.iter().position(|one| one.starts_with(start)).unwrap();
        assert_eq!(at("DeviceAllow=") + 1, at("DevicePolicy='strict'"));
        let list = &properties[at("DeviceAllow=")];
        for entry in ["('char-*', 'm')", "('/dev/char/1:3', 'rwm')", "('char-136', 'rwm')"] {
            assert!(list.contains(entry), "{list}");
        }
        // Who cannot restrict devices does not say that they were.
        assert!(!printed(Authority::User).iter().any(|one| one.starts_with("Device")));
    }
}
