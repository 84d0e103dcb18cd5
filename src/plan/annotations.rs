//! Annotations that mean something to a runtime: crun's, which engines and their users rely on.
//!
//! Runs outside. Owns their names, of which `features` prints those that change what a container may do. Unknown ones
//! never fail (config.md, Annotations).

use std::collections::BTreeMap;
use std::ffi::CString;
use std::path::{Path, PathBuf};

use anyhow::{Result, bail, ensure};
use oci_spec::runtime::Spec;

use super::request::c_path;

pub type Annotations = BTreeMap<String, String>;

/// The process keeps the caller's supplementary groups.
pub const KEEP_GROUPS: &str = "run.oci.keep_original_groups";
/// The mount option that carries `linux.mountLabel`.
pub const CONTEXT_TYPE: &str = "run.oci.mount_context_type";
/// Who answers a filter's notifications, where `linux.seccomp.listenerPath` says nothing.
pub const SECCOMP_RECEIVER: &str = "run.oci.seccomp.receiver";
/// Names of system calls that this machine does not have are an error.
pub const SECCOMP_STRICT: &str = "run.oci.seccomp_fail_unknown_syscall";
/// A filter's program, compiled and in base64, in the place of the one that `linux.seccomp` describes.
pub const SECCOMP_PROGRAM: &str = "run.oci.seccomp_bpf_data";
/// A socket that receives a pidfd of the container's first process, as `--pidfd-socket` names one.
pub const PIDFD_RECEIVER: &str = "run.oci.pidfd_receiver";
/// Files that what hooks print is added to.
pub const HOOKS_STDOUT: &str = "run.oci.hooks.stdout";
pub const HOOKS_STDERR: &str = "run.oci.hooks.stderr";
/// A property of the container's unit: its name follows, and what it means is for systemd.resource-control(5) to say.
pub const SYSTEMD_PROPERTY: &str = "org.systemd.property.";
/// A group of the container's own below that of its unit.
pub const SYSTEMD_SUBGROUP: &str = "run.oci.systemd.subgroup";
/// A group below the one that is limited, which the container gets to itself: its processes are there.
pub const DELEGATE_CGROUP: &str = "run.oci.delegate-cgroup";
/// A file of CRIU's options for checkpoint and restore; empty for none.
pub const CRIU_CONFIG: &str = "org.criu.config";

/// What asks for another kind of program than Linux executes, or for a library in the runtime.
const HANDLER: &str = "run.oci.handler";
const SECCOMP_PLUGINS: &str = "run.oci.seccomp.plugins";
const WASM_VARIANT: &str = "module.wasm.image/variant";

/// Those that an engine should not take from just anybody.
pub const UNSAFE: &[&str] = &[
    HOOKS_STDERR,
    HOOKS_STDOUT,
    KEEP_GROUPS,
    CONTEXT_TYPE,
    PIDFD_RECEIVER,
    SECCOMP_RECEIVER,
    SECCOMP_PROGRAM,
    SECCOMP_STRICT,
    SYSTEMD_PROPERTY,
    SYSTEMD_SUBGROUP,
    DELEGATE_CGROUP,
    CRIU_CONFIG,
    HANDLER,
    SECCOMP_PLUGINS,
    WASM_VARIANT,
];

/// Those that ask for what corten has not, and values with which they do not.
const EXECUTORS: &[(&str, &[&str], &str)] = &[
    (HANDLER, &[], "corten executes Linux programs, and has no other handlers"),
    (SECCOMP_PLUGINS, &[], "corten loads no libraries; a seccomp agent can listen at listenerPath"),
    (
        WASM_VARIANT,
        // A container that is WebAssembly fails by itself then, and its companions run.
        &["compat-smart"],
        "corten executes Linux programs, and WebAssembly is none",
    ),
];

pub fn check(spec: &Spec) -> Result<()> {
    ensure!(get(spec, "").is_none(), "annotations: a name is empty");
    for (name, harmless, reason) in EXECUTORS {
        if let Some(value) = get(spec, name).filter(|value| !value.is_empty() && !harmless.contains(value)) {
            bail!("annotations.{name}: {value:?} is asked for, but {reason}");
        }
    }
    Ok(())
}

pub fn get<'a>(spec: &'a Spec, name: &str) -> Option<&'a str> {
    spec.annotations().as_ref()?.get(name).map(String::as_str)
}

/// All of them, by name.
pub fn all(spec: &Spec) -> Annotations {
    spec.annotations().iter().flatten().map(|(name, value)| (name.clone(), value.clone())).collect()
}

/// Whether an annotation says yes.
pub fn is_set(spec: &Spec, name: &str) -> Result<bool> {
    match get(spec, name) {
        Some("1" | "true") => Ok(true),
        None | Some("" | "0" | "false") => Ok(false),
        Some(other) => bail!("annotations.{name}: {other:?} is neither true nor false"),
    }
}

/// An absolute path of the host's.
pub fn path(spec: &Spec, name: &str) -> Result<Option<CString>> {
    let value = get(spec, name).filter(|value| !value.is_empty());
    value.map(|value| c_path(Path::new(value), format_args!("annotations.{name}"))).transpose()
}

pub fn pidfd_receiver(spec: &Spec) -> Result<Option<PathBuf>> {
    let checked = path(spec, PIDFD_RECEIVER)?;
    Ok(checked.and_then(|_| get(spec, PIDFD_RECEIVER)).map(PathBuf::from))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::plan::testing::Given;

    fn refusal(annotations: Value) -> String {
        check(&Given::new(json!({"annotations": annotations})).spec).unwrap_err().to_string()
    }

    #[test]
    fn other_executors_are_refused_by_name() {
        assert_eq!(
            refusal(json!({"run.oci.handler": "krun"})),
            "annotations.run.oci.handler: \"krun\" is asked for, but corten executes Linux programs, and has no \
             other handlers"
        );
        assert!(refusal(json!({"module.wasm.image/variant": "compat"})).contains("WebAssembly"));
        assert!(refusal(json!({"run.oci.seccomp.plugins": "a.so"})).contains("loads no libraries"));
        let smart = json!({"module.wasm.image/variant": "compat-smart", "krun.cpus": "2", "org.example": ""});
        check(&Given::new(json!({"annotations": smart})).spec).unwrap();
    }

    #[test]
    fn paths_in_annotations_are_absolute() {
        let given =
            Given::new(json!({"annotations": {PIDFD_RECEIVER: "a/b", HOOKS_STDOUT: "/a", HOOKS_STDERR: ""}}));
        assert_eq!(
            pidfd_receiver(&given.spec).unwrap_err().to_string(),
            "annotations.run.oci.pidfd_receiver: \"a/b\" is not absolute"
        );
        assert_eq!(path(&given.spec, HOOKS_STDOUT).unwrap().as_deref(), Some(c"/a"));
        assert_eq!(path(&given.spec, HOOKS_STDERR).unwrap(), None);
    }
}
