//! Cgroup mounts: what `type: cgroup` means on this host's hierarchies.
//!
//! Runs outside. One hierarchy is one filesystem (v2); several are a tmpfs with a directory for each (v1, hybrid).

use std::ffi::CString;
use std::path::{Path, PathBuf};

use anyhow::{Result, ensure};

use super::facts::{Authority, Hierarchy};
use super::mounts::Planner;
use super::namespaces::Place;
use super::request::c_string;
use super::steps::Steps;
use super::{Action, Mount, MountWhat, Namespace, Parameter};

const CONFINED: u64 = libc::MOUNT_ATTR_NOSUID | libc::MOUNT_ATTR_NODEV | libc::MOUNT_ATTR_NOEXEC;

pub fn plan(planner: &Planner, kind: &str, steps: &mut Steps) -> Result<()> {
    planner.refuse_idmap()?;
    planner.refuse_copy_up()?;
    let hierarchies = &planner.request.facts.hierarchies;
    ensure!(!hierarchies.is_empty(), "{}: no cgroup hierarchy is mounted on this host", planner.place);
    let unified = hierarchies.iter().find(|hierarchy| is_unified(hierarchy));
    let only_unified = hierarchies.iter().all(is_unified);
    match unified {
        Some(unified) if only_unified || kind == "cgroup2" => plan_unified(planner, unified, steps),
        None if kind == "cgroup2" => {
            anyhow::bail!("{}.type: this host has no cgroup v2 hierarchy", planner.place)
        }
        _ => plan_legacy(planner, steps),
    }
}

fn is_unified(hierarchy: &Hierarchy) -> bool {
    hierarchy.controllers.is_empty()
}

/// Whether the kernel shows the container's own group as the root of a new mount.
fn has_namespace(planner: &Planner) -> bool {
    planner.request.place(Namespace::Cgroup) != Place::Inherited
}

fn plan_unified(planner: &Planner, unified: &Hierarchy, steps: &mut Steps) -> Result<()> {
    let options = &planner.options;
    let mut parameters = Vec::new();
    if let Some(source) = planner.entry.source().as_deref() {
        parameters.push(Parameter::Text(c_string("source")?, path_string(source)?));
    }
    let filesystem = has_namespace(planner) || !planner.request.in_user_namespace();
    let what = if filesystem {
        parameters.extend(options.data.iter().map(|data| data.parameter.clone()));
        MountWhat::Filesystem { kind: c"cgroup2".to_owned(), parameters }
    } else {
        // The host's tree, which a user namespace cannot mount anew.
        planner.refuse_data("the host's cgroup tree")?;
        let source = c_string(unified.mount_point.as_str())?;
        MountWhat::Tree { slot: steps.tree(source, true, true, None) }
    };
    let mut mount = Mount::new(planner.inside()?, what).with_options(options);
    if !filesystem && planner.request.facts.authority != Authority::Root {
        // CVE-2023-25809: the caller's own groups are writable to the container's root.
        make_read_only(&mut mount);
    }
    planner.add(mount, steps);
    Ok(())
}

fn make_read_only(mount: &mut Mount) {
    mount.set |= libc::MOUNT_ATTR_RDONLY;
    mount.clear &= !libc::MOUNT_ATTR_RDONLY;
    mount.set_recursive |= libc::MOUNT_ATTR_RDONLY;
    mount.clear_recursive &= !libc::MOUNT_ATTR_RDONLY;
}

fn plan_legacy(planner: &Planner, steps: &mut Steps) -> Result<()> {
    planner.refuse_data("a mount of cgroup v1 hierarchies")?;
    let parameters = vec![
        Parameter::Text(c"source".to_owned(), c"tmpfs".to_owned()),
        Parameter::Text(c"mode".to_owned(), c"755".to_owned()),
    ];
    let tmpfs = MountWhat::Filesystem { kind: c"tmpfs".to_owned(), parameters };
    let mut directory = Mount::new(planner.inside()?, tmpfs).with_options(&planner.options);
    confine(&mut directory);
    directory.read_only_later(steps);
    planner.add(directory, steps);
    for hierarchy in &planner.request.facts.hierarchies {
        plan_hierarchy(planner, hierarchy, steps)?;
    }
    for hierarchy in &planner.request.facts.hierarchies {
        plan_links(planner, hierarchy, steps)?;
    }
    Ok(())
}

/// One hierarchy in its own directory, named as on the host.
fn plan_hierarchy(planner: &Planner, hierarchy: &Hierarchy, steps: &mut Steps) -> Result<()> {
    let what = if has_namespace(planner) {
        new_hierarchy(hierarchy)?
    } else {
        let source = path_string(&own_group(planner, hierarchy))?;
        MountWhat::Tree { slot: steps.tree(source, true, true, None) }
    };
    let inside = c_string(format!("{}/{}", planner.destination, directory_name(hierarchy)))?;
    let mut mount = Mount::new(inside, what).with_options(&planner.options);
    confine(&mut mount);
    planner.add(mount, steps);
    Ok(())
}

/// Controllers that share a hierarchy are each found by their own name too.
fn plan_links(planner: &Planner, hierarchy: &Hierarchy, steps: &mut Steps) -> Result<()> {
    let directory = directory_name(hierarchy);
    let controllers = hierarchy.controllers.split(',');
    for controller in controllers.filter(|name| !name.is_empty() && !name.contains('=')) {
        if controller != directory {
            let inside = c_string(format!("{}/{controller}", planner.destination))?;
            steps.birth(Action::Symlink { inside, to: c_string(directory)?, replace: false });
        }
    }
    Ok(())
}

fn confine(mount: &mut Mount) {
    mount.set |= CONFINED & !mount.clear;
}

/// As mount(8) would be asked: `cpu,cpuacct`, or `none,name=systemd`.
fn new_hierarchy(hierarchy: &Hierarchy) -> Result<MountWhat> {
    let source = Parameter::Text(c"source".to_owned(), c"cgroup".to_owned());
    if is_unified(hierarchy) {
        return Ok(MountWhat::Filesystem { kind: c"cgroup2".to_owned(), parameters: vec![source] });
    }
    let mut parameters = vec![source];
    for word in hierarchy.controllers.split(',') {
        match word.split_once('=') {
            None => parameters.push(Parameter::Flag(c_string(word)?)),
            Some((key, value)) => {
                parameters.push(Parameter::Flag(c"none".to_owned()));
                parameters.push(Parameter::Text(c_string(key)?, c_string(value)?));
            }
        }
    }
    Ok(MountWhat::Filesystem { kind: c"cgroup".to_owned(), parameters })
}

/// The container's group on the host; where it has none, the runtime's.
fn own_group(planner: &Planner, hierarchy: &Hierarchy) -> PathBuf {
    let group = planner.group.unwrap_or(Path::new(&hierarchy.own));
    let group = group.strip_prefix("/").unwrap_or(group);
    Path::new(&hierarchy.mount_point).join(group)
}

fn directory_name(hierarchy: &Hierarchy) -> &str {
    let name = hierarchy.mount_point.rsplit('/').find(|name| !name.is_empty());
    name.unwrap_or(&hierarchy.controllers)
}

fn path_string(path: &Path) -> Result<CString> {
    c_string(path.as_os_str().as_encoded_bytes())
}
