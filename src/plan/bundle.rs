//! Reads a bundle: `config.json` in, the specification's types out.
//!
//! Runs outside. With `facts.rs` the only file of `plan/` that looks at the world. Checks the shape of the
//! text and that the root filesystem is there; what the values mean is each planner's business.

use std::fs;
use std::io::{ErrorKind, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Error, Result, bail, ensure};
use oci_spec::runtime::{LinuxResources, Process, Spec};
use serde_json::Value;

use super::facts::Facts;
use super::request::{Options, Request, root_path};
use super::typed::typed;
use super::{Namespace, capabilities, limits, sysctl};

/// A bundle as its author wrote it.
#[derive(Debug)]
pub struct Bundle {
    /// Absolute.
    pub directory: PathBuf,
    /// The configuration's text, of which the container keeps a copy.
    pub text: Vec<u8>,
    pub spec: Box<Spec>,
    /// What the configuration asks for in vain, without being wrong.
    pub warnings: Vec<String>,
}

impl Bundle {
    /// Read the configuration `name` of the bundle in `directory`.
    pub fn read(directory: &Path, name: &Path) -> Result<Bundle> {
        let shown = directory.display();
        let directory = fs::canonicalize(directory).with_context(|| format!("bundle {shown}"))?;
        let path = directory.join(name);
        let text = read(&path)?;
        let (spec, warnings) = parse(&text).with_context(|| name.display().to_string())?;
        let bundle = Bundle { directory, text, spec, warnings };
        bundle.check_root().with_context(|| name.display().to_string())?;
        bundle.check_joined().with_context(|| name.display().to_string())?;
        Ok(bundle)
    }

    pub fn request<'a>(&'a self, id: &'a str, facts: &'a Facts, options: &'a Options) -> Request<'a> {
        Request { id, bundle: &self.directory, spec: &self.spec, warnings: &self.warnings, facts, options }
    }

    /// A root that is a symbolic link could point elsewhere tomorrow.
    fn check_root(&self) -> Result<()> {
        let root = self.spec.root().as_ref().context("root: missing")?;
        ensure!(!root.path().as_os_str().is_empty(), "root.path: missing");
        let path = root_path(&self.directory, root);
        let shown = path.display();
        match fs::symlink_metadata(&path) {
            Ok(found) if found.is_symlink() => {
                bail!("root.path: {shown} is a symbolic link, and must be a directory")
            }
            Ok(found) if !found.is_dir() => bail!("root.path: {shown} is not a directory"),
            Ok(_) => Ok(()),
            Err(error) if error.kind() == ErrorKind::NotFound => bail!("root.path: {shown} does not exist"),
            Err(error) => Err(error).context(format!("root.path: {shown}")),
        }
    }

    /// In a joined namespace that is the host's own, a sysctl would change the host, and no device can be moved there
    /// from the host.
    fn check_joined(&self) -> Result<()> {
        let Some(linux) = self.spec.linux() else { return Ok(()) };
        for key in linux.sysctl().iter().flatten().map(|(key, _)| key) {
            let Some(kind) = sysctl::namespace(&sysctl::path(key)) else { continue };
            let joins = self.joins_the_hosts(kind);
            let name = kind.name();
            ensure!(
                !joins,
                "linux.sysctl: {key} would change the host, whose {name} namespace the container joins"
            );
        }
        let moves = linux.net_devices().as_ref().is_some_and(|devices| !devices.is_empty());
        ensure!(
            !moves || !self.joins_the_hosts(Namespace::Network),
            "linux.netDevices: the devices are the host's, whose network namespace the container joins"
        );
        Ok(())
    }

    /// One that cannot be looked at is refused in words when it is opened.
    fn joins_the_hosts(&self, kind: Namespace) -> bool {
        let listed = self.spec.linux().as_ref().and_then(|linux| linux.namespaces().as_ref());
        let mut listed = listed.into_iter().flatten();
        let joined = listed.find(|listed| Namespace::from(listed.typ()) == kind);
        let Some(path) = joined.and_then(|joined| joined.path().as_ref()) else { return false };
        let identity = |path: &Path| fs::metadata(path).map(|found| (found.dev(), found.ino())).ok();
        let joined = identity(path);
        joined.is_some() && joined == identity(&Path::new("/proc/self/ns").join(kind.kind().file))
    }
}

/// A document that somebody names, which need not end.
#[allow(clippy::disallowed_methods, reason = "this is where plan/ looks")]
pub fn read(path: &Path) -> Result<Vec<u8>> {
    const LONGEST: u64 = 64 << 20;
    let read = || {
        let file = fs::File::open(path)?;
        let mut text = Vec::with_capacity(file.metadata()?.len().min(LONGEST) as usize + 1);
        file.take(LONGEST + 1).read_to_end(&mut text)?;
        Ok::<_, std::io::Error>(text)
    };
    let text = read().with_context(|| path.display().to_string())?;
    ensure!(text.len() as u64 <= LONGEST, "{}: is longer than {} MiB", path.display(), LONGEST >> 20);
    Ok(text)
}

/// A container's configuration from its text, with what it asks for in vain.
pub fn parse(text: &[u8]) -> Result<(Box<Spec>, Vec<String>)> {
    let mut document = document(text)?;
    let mut warnings = Vec::new();
    if let Some(members) = document.as_object_mut() {
        FOREIGN.iter().for_each(|name| drop(members.remove(*name)));
    }
    if let Some(group) = document.pointer_mut("/linux/intelRdt") {
        settle_monitoring(group);
    }
    if let Some(process) = document.get_mut("process") {
        settle_process(process, "process", &mut warnings);
    }
    check_devices(&document)?;
    if let Some(resources) = document.pointer_mut("/linux/resources") {
        limits::settle(resources, "linux.resources.")?;
    }
    let spec: Box<Spec> = typed(document)?;
    check_version(spec.version())?;
    Ok((spec, warnings))
}

/// Numbers that the types would take for 0 when they are missing.
fn check_devices(document: &Value) -> Result<()> {
    let devices = document.pointer("/linux/devices").and_then(Value::as_array);
    for (index, device) in devices.into_iter().flatten().enumerate() {
        let numbered = device.get("type").and_then(Value::as_str).is_some_and(|kind| kind != "p");
        for number in ["major", "minor"].into_iter().filter(|_| numbered) {
            ensure!(device.get(number).is_some(), "linux.devices[{index}].{number}: missing");
        }
    }
    Ok(())
}

/// A process to be run in a container (`exec --process`), with what it asks for in vain.
pub fn parse_process(text: &[u8]) -> Result<(Process, Vec<String>)> {
    let mut document = document(text)?;
    let mut warnings = Vec::new();
    settle_process(&mut document, "", &mut warnings);
    Ok((typed(document)?, warnings))
}

/// Limits as `update` reads them: their members, checked against the type that they are to become a part of.
pub fn parse_resources(text: &[u8]) -> Result<Value> {
    let mut document = document(text)?;
    limits::settle(&mut document, "")?;
    typed::<LinuxResources>(document.clone())?;
    Ok(document)
}

/// The limits of a container, from its configuration.
pub fn resources(document: &Value) -> Result<LinuxResources> {
    typed(document.clone()).context("linux.resources")
}

/// The text as JSON, in which every string can be passed to the kernel.
fn document(text: &[u8]) -> Result<Value> {
    let document: Value = serde_json::from_slice(text).map_err(|error| {
        let (line, column) = (error.line(), error.column());
        let reason = error.to_string();
        let reason = reason.split(" at line ").next().unwrap_or_default();
        Error::msg(format!("line {line} column {column}: {reason}"))
    })?;
    ensure!(document.is_object(), "the outermost value is not an object");
    check_shape(&document, &mut Vec::new())?;
    Ok(document)
}

/// Members that are objects. The types would take a list for one, member by member.
const OBJECTS: &[&str] = &[
    "annotations",
    "blockIO",
    "capabilities",
    "consoleSize",
    "cpu",
    "execCPUAffinity",
    "hooks",
    "intelRdt",
    "ioPriority",
    "linux",
    "memory",
    "memoryPolicy",
    "netDevices",
    "network",
    "personality",
    "pids",
    "process",
    "rdma",
    "resources",
    "root",
    "scheduler",
    "seccomp",
    "sysctl",
    "timeOffsets",
    "unified",
    "user",
];

/// Scheduler flags that the types spell in a way of their own.
const RESPELLED: &[(&str, &str)] = &[
    ("SCHED_FLAG_RESET_ON_FORK", "SCHED_RESET_ON_FORK"),
    ("SCHED_FLAG_DL_OVERRUN", "SCHED_FLAG_D_L_OVERRUN"),
];

/// Members about other systems, and two that the types have by mistake.
const FOREIGN: &[&str] = &["gidMappings", "solaris", "uidMappings", "vm", "windows", "zos"];

/// One step from a JSON value to one within it.
enum Hop<'a> {
    Member(&'a str),
    Index(usize),
}

fn check_shape<'a>(value: &'a Value, path: &mut Vec<Hop<'a>>) -> Result<()> {
    match value {
        Value::String(text) => ensure!(!text.contains('\0'), "{}: a NUL byte in a string", spell(path)),
        Value::Array(items) => {
            let misplaced = match path.last() {
                Some(Hop::Member(name)) => OBJECTS.contains(name),
                Some(Hop::Index(_)) => true,
                None => false,
            };
            ensure!(!misplaced, "{}: a list where an object belongs", spell(path));
            for (index, item) in items.iter().enumerate() {
                path.push(Hop::Index(index));
                check_shape(item, path)?;
                path.pop();
            }
        }
        Value::Object(members) => {
            for (name, member) in members {
                path.push(Hop::Member(name));
                ensure!(!name.contains('\0'), "{}: a NUL byte in a name", spell(path));
                check_shape(member, path)?;
                path.pop();
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
    Ok(())
}

fn spell(path: &[Hop]) -> String {
    let mut spelled = String::new();
    for hop in path {
        match hop {
            Hop::Member(name) => {
                let dot = if spelled.is_empty() { "" } else { "." };
                spelled.push_str(&format!("{dot}{}", name.escape_debug()));
            }
            Hop::Index(index) => spelled.push_str(&format!("[{index}]")),
        }
    }
    spelled
}

/// Bring a process to what the types take: they insist on a user, whose absence means root, and on
/// capabilities that they know, while the specification says to warn about others.
fn settle_process(process: &mut Value, path: &str, warnings: &mut Vec<String>) {
    let Some(process) = process.as_object_mut() else { return };
    process.entry("user").or_insert_with(|| Value::Object(Default::default()));
    let flags = process.get_mut("scheduler").and_then(|scheduler| scheduler.get_mut("flags"));
    for flag in flags.and_then(Value::as_array_mut).into_iter().flatten() {
        if let Some((_, theirs)) = RESPELLED.iter().find(|(name, _)| flag == name) {
            *flag = Value::from(*theirs);
        }
    }
    let Some(sets) = process.get_mut("capabilities").and_then(Value::as_object_mut) else { return };
    let dot = if path.is_empty() { "" } else { "." };
    for (name, set) in sets {
        let Some(set) = set.as_array_mut() else { continue };
        let mut index = 0;
        set.retain(|capability| {
            let known = match capability.as_str() {
                Some(capability) => capabilities::is_known(capability),
                None => true,
            };
            if !known {
                warnings.push(format!(
                    "{path}{dot}capabilities.{name}[{index}]: {capability} is not a capability that corten knows; ignored"
                ));
            }
            index += 1;
            known
        });
    }
}

/// Before specification 1.3 monitoring had two names, for two kinds of it.
fn settle_monitoring(group: &mut Value) {
    let asked = |name: &str| group.get(name) == Some(&Value::Bool(true));
    if asked("enableCMT") || asked("enableMBM") {
        group["enableMonitoring"] = Value::Bool(true);
    }
}

/// Versions 1.x, and the drafts of 1.0.0 that were already compatible with it.
fn check_version(version: &str) -> Result<()> {
    ensure!(!version.is_empty(), "ociVersion: missing");
    let core = version.split(['-', '+']).next().unwrap_or_default();
    let numbers: Vec<&str> = core.split('.').collect();
    let semantic = numbers.len() == 3 && numbers.iter().all(|number| number.parse::<u32>().is_ok());
    ensure!(semantic, "ociVersion: {version:?} is not a semantic version");
    ensure!(numbers[0] == "1", "ociVersion: {version:?} is not supported (1.x is)");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(text: &str) -> String {
        format!("{:#}", parse(text.as_bytes()).unwrap_err())
    }

    #[test]
    fn broken_json_is_reported_with_line_and_column() {
        assert_eq!(refusal("{\n  \"ociVersion\": 1.0.0 }"), "line 2 column 20: expected `,` or `}`");
        assert_eq!(refusal("[]"), "the outermost value is not an object");
    }

    #[test]
    fn wrong_types_are_reported_with_their_path() {
        assert_eq!(
            refusal(r#"{"ociVersion":"1.2.0","process":{"cwd":"/","args":["a",3]}}"#),
            "process.args[1]: invalid type: integer `3`, expected a string"
        );
        assert_eq!(
            refusal(r#"{"ociVersion":"1.2.0","mounts":[{"destination":7}]}"#),
            "mounts[0].destination: invalid type: integer `7`, expected path string"
        );
    }

    #[test]
    fn a_list_is_never_taken_for_an_object() {
        assert_eq!(refusal(r#"{"ociVersion":"1.0.0","linux":[]}"#), "linux: a list where an object belongs");
        assert_eq!(
            refusal(r#"{"ociVersion":"1.0.0","mounts":[["/proc"]]}"#),
            "mounts[0]: a list where an object belongs"
        );
    }

    #[test]
    fn nul_bytes_are_refused_wherever_they_are() {
        assert_eq!(
            refusal(r#"{"ociVersion":"1.0.0","process":{"cwd":"/","env":["A=\u0000"]}}"#),
            "process.env[0]: a NUL byte in a string"
        );
        assert_eq!(
            refusal(r#"{"ociVersion":"1.0.0","annotations":{"a\u0000":"b"}}"#),
            "annotations.a\\0: a NUL byte in a name"
        );
    }

    #[test]
    fn unknown_capabilities_are_a_warning_and_unknown_members_nothing() {
        let text = r#"{"ociVersion":"1.0.0","shoes":{"size":44},
            "process":{"cwd":"/","capabilities":{"bounding":["CAP_CHOWN","CAP_FLY"]}}}"#;
        let (spec, warnings) = parse(text.as_bytes()).unwrap();
        assert_eq!(
            warnings,
            ["process.capabilities.bounding[1]: \"CAP_FLY\" is not a capability that corten knows; ignored"]
        );
        let process = spec.process().as_ref().unwrap();
        let bounding = process.capabilities().as_ref().unwrap().bounding().as_ref().unwrap();
        assert_eq!(bounding.len(), 1);
    }

    #[test]
    fn a_process_without_a_user_is_root() {
        let (process, _) = parse_process(br#"{"cwd":"/","args":["true"]}"#).unwrap();
        assert_eq!((process.user().uid(), process.user().gid()), (0, 0));
    }

    #[test]
    fn scheduler_flags_are_taken_as_the_specification_spells_them() {
        let text = br#"{"cwd":"/","scheduler":{"policy":"SCHED_OTHER","flags":
            ["SCHED_FLAG_RESET_ON_FORK","SCHED_FLAG_DL_OVERRUN","SCHED_FLAG_KEEP_POLICY"]}}"#;
        let (process, _) = parse_process(text).unwrap();
        assert_eq!(process.scheduler().as_ref().unwrap().flags().as_ref().unwrap().len(), 3);
    }

    #[test]
    fn a_device_without_a_number_is_not_taken_for_number_0() {
        let config = |device: &str| format!(r#"{{"ociVersion":"1.0.0","linux":{{"devices":[{device}]}}}}"#);
        assert_eq!(
            refusal(&config(r#"{"path":"/dev/x","type":"c","major":1}"#)),
            "linux.devices[0].minor: missing"
        );
        parse(config(r#"{"path":"/run/pipe","type":"p"}"#).as_bytes()).unwrap();
    }

    #[test]
    fn what_is_about_other_systems_is_none_of_our_business() {
        parse(br#"{"ociVersion":"1.0.0","windows":7,"vm":[],"uidMappings":"x"}"#).unwrap();
    }

    #[test]
    fn versions_of_another_major_are_refused() {
        for good in ["1.0.0", "1.0.2-dev", "1.3.0+dev", "1.0.0-rc5"] {
            check_version(good).unwrap();
        }
        for bad in ["", "1", "1.0", "2.0.0", "0.5.0", "v1.0.0", "1.0.x"] {
            check_version(bad).unwrap_err();
        }
    }

    #[test]
    fn a_root_that_is_no_directory_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let config = r#"{"ociVersion":"1.0.0","root":{"path":"rootfs"}}"#;
        fs::write(directory.path().join("config.json"), config).unwrap();
        let read = || Bundle::read(directory.path(), Path::new("config.json"));
        let root = directory.path().join("rootfs");

        assert!(format!("{:#}", read().unwrap_err()).ends_with("rootfs does not exist"));
        std::os::unix::fs::symlink("/", &root).unwrap();
        assert!(format!("{:#}", read().unwrap_err()).contains("is a symbolic link"));
        fs::write(directory.path().join("config.json"), config.replace("rootfs", "rootfs/")).unwrap();
        assert!(format!("{:#}", read().unwrap_err()).contains("is a symbolic link"));
        fs::write(directory.path().join("config.json"), config).unwrap();
        fs::remove_file(&root).unwrap();
        fs::write(&root, "").unwrap();
        assert!(format!("{:#}", read().unwrap_err()).ends_with("is not a directory"));
        fs::remove_file(&root).unwrap();
        fs::create_dir(&root).unwrap();
        assert_eq!(read().unwrap().text, config.as_bytes());
    }

    #[test]
    fn the_hosts_own_network_namespace_takes_neither_sysctls_nor_devices() {
        let directory = tempfile::tempdir().unwrap();
        fs::create_dir(directory.path().join("rootfs")).unwrap();
        let read = |key: &str| {
            let config = serde_json::json!({"ociVersion": "1.0.0", "root": {"path": "rootfs"}, "linux": {
                "namespaces": [{"type": "network", "path": "/proc/self/ns/net"}],
                "sysctl": {key: "1"},
            }});
            fs::write(directory.path().join("config.json"), config.to_string()).unwrap();
            Bundle::read(directory.path(), Path::new("config.json"))
        };
        assert!(format!("{:#}", read("net.ipv4.ip_forward").unwrap_err()).contains("would change the host"));
        read("kernel.msgmax").unwrap();
        let config = serde_json::json!({"ociVersion": "1.0.0", "root": {"path": "rootfs"}, "linux": {
            "namespaces": [{"type": "network", "path": "/proc/self/ns/net"}], "netDevices": {"eth0": {}},
        }});
        fs::write(directory.path().join("config.json"), config.to_string()).unwrap();
        let refused = Bundle::read(directory.path(), Path::new("config.json")).unwrap_err();
        assert!(
            format!("{refused:#}").contains("linux.netDevices: the devices are the host's"),
            "{refused:#}"
        );
    }
}
