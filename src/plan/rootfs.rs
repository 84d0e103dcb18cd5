//! The container's root: where it comes from, how it propagates, what is hidden in it.
//!
//! Runs outside. `steps.rs` says when each part comes.

use std::ffi::CString;
use std::path::Path;

use anyhow::{Context, Result, ensure};

use super::mounts::clean;
use super::namespaces::Place;
use super::request::{Request, c_path, root_path};
use super::steps::Steps;
use super::{Action, Namespace, mount_options};

/// A mount namespace that is not the container's own is not ours to change.
const UNCHANGED: u64 = 0;

/// Where the root of a container without a mount namespace is, in the container's own directory.
const IN_ROOM: &str = "rootfs";

/// Put the root tree in place, below which everything else is mounted.
pub fn plan(request: &Request, steps: &mut Steps) -> Result<()> {
    let root = request.spec.root().as_ref().context("root: missing")?;
    ensure!(!root.path().as_os_str().is_empty(), "root.path: missing");
    let source = c_path(&root_path(request.bundle, root), "root.path")?;
    let (path, propagation) = match (request.place(Namespace::Mount), configured_propagation(request)?) {
        // Everybody sees it. What the engine mounted on the bundle's path would slide on top of ours or below it.
        (Place::Inherited, _) => (c_path(&request.options.room.join(IN_ROOM), "--root")?, UNCHANGED),
        (_, configured) => (source.clone(), assembly_propagation(configured)),
    };
    let slot = steps.tree("root.path", source, true, false, None);
    steps.open_trees_here();
    steps.birth(Action::MountRoot { slot, path, propagation });
    Ok(())
}

/// Make the root tree the process's root, with the propagation that the configuration asks for.
pub fn plan_entry(request: &Request, steps: &mut Steps) -> Result<()> {
    if request.place(Namespace::Mount) == Place::Inherited {
        steps.birth(Action::Chroot);
        return Ok(());
    }
    steps.birth(if request.options.no_pivot { Action::MoveRoot } else { Action::Pivot });
    if let Some(flags) = configured_propagation(request)? {
        steps.birth(Action::RootPropagation { flags });
    }
    Ok(())
}

pub fn plan_read_only(request: &Request, steps: &mut Steps) {
    let read_only = request.spec.root().as_ref().and_then(|root| root.readonly());
    if read_only == Some(true) {
        steps.birth(Action::ReadOnlyRoot);
    }
}

/// Read-only paths, then masked ones: a mask may lie below a read-only path.
pub fn plan_hidden_paths(request: &Request, steps: &mut Steps) -> Result<()> {
    let Some(linux) = request.linux() else { return Ok(()) };
    for inside in absolute_paths(request, linux.readonly_paths(), "linux.readonlyPaths")? {
        steps.birth(Action::ReadOnlyPath { inside });
    }
    for inside in absolute_paths(request, linux.masked_paths(), "linux.maskedPaths")? {
        steps.birth(Action::Mask { inside });
    }
    Ok(())
}

fn absolute_paths(request: &Request, paths: &Option<Vec<String>>, place: &str) -> Result<Vec<CString>> {
    let paths = paths.as_deref().unwrap_or_default();
    let own_mounts = request.place(Namespace::Mount) != Place::Inherited;
    ensure!(paths.is_empty() || own_mounts, "{place}: need a namespace of type mount");
    paths
        .iter()
        .enumerate()
        .map(|(index, path)| {
            ensure!(path.starts_with('/'), "{place}[{index}]: {path:?} is not absolute");
            c_path(Path::new(&clean(Path::new(path))), format_args!("{place}[{index}]"))
        })
        .collect()
}

fn configured_propagation(request: &Request) -> Result<Option<u64>> {
    let name = request.linux().and_then(|linux| linux.rootfs_propagation().as_deref()).unwrap_or_default();
    if name.is_empty() {
        return Ok(None);
    }
    let flags = mount_options::propagation(name);
    flags.with_context(|| format!("linux.rootfsPropagation: {name:?} is not a propagation")).map(Some)
}

/// How the host's mounts are seen meanwhile. Shared stays shared, so that a mount that asks for it reaches the
/// host (Kubernetes' bidirectional propagation); everything else keeps what is mounted here to itself.
fn assembly_propagation(configured: Option<u64>) -> u64 {
    let kind = match configured.unwrap_or(libc::MS_SLAVE) & !libc::MS_REC {
        libc::MS_SHARED => libc::MS_SHARED,
        libc::MS_PRIVATE => libc::MS_PRIVATE,
        _ => libc::MS_SLAVE,
    };
    kind | libc::MS_REC
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::super::facts::Authority;
    use super::super::testing::Given;
    use super::super::{Open, Step};
    use super::*;

    type Planner = fn(&Request, &mut Steps) -> Result<()>;

    fn printed(config: Value, planner: Planner) -> Result<Vec<String>> {
        let given = Given::new(config);
        let mut steps = Steps::new(Authority::Root);
        planner(&given.request(), &mut steps)?;
        Ok(steps.listed().iter().map(|step| format!("{:?}", step.action)).collect())
    }

    fn propagations(name: &str) -> (String, Vec<String>) {
        let namespaces = json!([{"type": "mount"}]);
        let config = json!({"linux": {"namespaces": namespaces, "rootfsPropagation": name}});
        let root = printed(config.clone(), plan).unwrap().remove(0);
        (root, printed(config, plan_entry).unwrap())
    }

    #[test]
    fn the_root_is_a_recursive_tree_of_the_bundle_and_no_symbolic_link() {
        let given = Given::new(json!({}));
        let mut steps = Steps::new(Authority::Root);
        plan(&given.request(), &mut steps).unwrap();
        let [(_, Open::Tree { source, recursive: true, follow: false, idmap: None, .. })] = steps.opened()
        else {
            panic!("{:?}", steps.opened());
        };
        assert_eq!(source.as_c_str(), c"/bundle/rootfs");
    }

    #[test]
    fn the_root_is_a_slave_unless_told_otherwise() {
        let slave = format!("propagation: {}", libc::MS_SLAVE | libc::MS_REC);
        let private = format!("propagation: {}", libc::MS_PRIVATE | libc::MS_REC);
        let shared = format!("propagation: {}", libc::MS_SHARED | libc::MS_REC);
        for (name, expected) in [
            ("", &slave),
            ("slave", &slave),
            ("unbindable", &slave),
            ("rprivate", &private),
            ("rshared", &shared),
        ] {
            let (root, _) = propagations(name);
            assert!(root.contains(expected.as_str()), "{name}: {root}");
        }
    }

    #[test]
    fn the_configured_propagation_comes_last() {
        assert_eq!(propagations("").1, ["Pivot"]);
        let shared = format!("RootPropagation {{ flags: {} }}", libc::MS_SHARED);
        assert_eq!(propagations("shared").1, ["Pivot".to_string(), shared]);
    }

    #[test]
    fn without_a_mount_namespace_the_root_is_mounted_in_the_containers_own_directory() {
        let config = json!({"linux": {"rootfsPropagation": "shared"}});
        let root = printed(config.clone(), plan).unwrap().remove(0);
        assert!(root.contains("propagation: 0") && root.contains("/run/corten/web/rootfs"), "{root}");
        assert_eq!(printed(config, plan_entry).unwrap(), ["Chroot"]);
    }

    #[test]
    fn a_root_that_cannot_be_pivoted_to_is_moved() {
        let mut given = Given::new(json!({"linux": {"namespaces": [{"type": "mount"}]}}));
        given.options.no_pivot = true;
        let mut steps = Steps::new(Authority::Root);
        plan_entry(&given.request(), &mut steps).unwrap();
        assert!(matches!(steps.listed(), [Step { action: Action::MoveRoot, .. }]), "{:?}", steps.listed());
    }

    #[test]
    fn an_unknown_propagation_is_refused() {
        let error = printed(json!({"linux": {"rootfsPropagation": "ro"}}), plan).unwrap_err();
        assert_eq!(error.to_string(), "linux.rootfsPropagation: \"ro\" is not a propagation");
    }

    #[test]
    fn only_a_read_only_root_is_made_so() {
        let planner: Planner = |request, steps| {
            plan_read_only(request, steps);
            Ok(())
        };
        let read_only = json!({"root": {"path": "rootfs", "readonly": true}});
        assert_eq!(printed(read_only, planner).unwrap(), ["ReadOnlyRoot"]);
        assert_eq!(printed(json!({"root": {"path": "rootfs"}}), planner).unwrap(), [""; 0]);
    }

    fn hidden(linux: Value) -> Result<Vec<String>> {
        printed(json!({"linux": linux}), plan_hidden_paths)
    }

    #[test]
    fn masks_come_after_read_only_paths() {
        let linux = json!({
            "namespaces": [{"type": "mount"}],
            "maskedPaths": ["/proc/kcore", "/proc//a/../kcore"],
            "readonlyPaths": ["/proc/sys"],
        });
        assert_eq!(
            hidden(linux).unwrap(),
            [
                "ReadOnlyPath { inside: \"/proc/sys\" }",
                "Mask { inside: \"/proc/kcore\" }",
                "Mask { inside: \"/proc/kcore\" }"
            ]
        );
    }

    #[test]
    fn hidden_paths_are_absolute_and_need_a_mount_namespace() {
        let relative =
            json!({"namespaces": [{"type": "mount"}], "maskedPaths": ["/proc/keys", "proc/kcore"]});
        assert_eq!(
            hidden(relative).unwrap_err().to_string(),
            "linux.maskedPaths[1]: \"proc/kcore\" is not absolute"
        );
        assert_eq!(
            hidden(json!({"readonlyPaths": ["/proc/sys"]})).unwrap_err().to_string(),
            "linux.readonlyPaths: need a namespace of type mount"
        );
        assert_eq!(hidden(json!({"maskedPaths": []})).unwrap(), [""; 0]);
    }
}
