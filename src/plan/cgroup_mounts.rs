//! Cgroup mounts: what `type: cgroup` means on this host's hierarchies.
//!
//! Runs outside. One hierarchy is one filesystem (v2); several are a tmpfs with a directory for each (v1, hybrid).

use std::borrow::Cow;
use std::ffi::CString;
use std::path::{Path, PathBuf};

use anyhow::{Result, bail, ensure};

use super::cgroup::CgroupLayout;
use super::facts::Authority;
use super::mounts::Planner;
use super::namespaces::Place;
use super::request::c_string;
use super::steps::Steps;
use super::{Action, Mount, MountWhat, Namespace, Parameter};

const CONFINED: u64 = libc::MOUNT_ATTR_NOSUID | libc::MOUNT_ATTR_NODEV | libc::MOUNT_ATTR_NOEXEC;

pub fn plan(planner: &Planner, kind: &str, steps: &mut Steps) -> Result<()> {
    planner.refuse_idmap()?;
    planner.refuse_copy_up()?;
    let layout = &planner.request.facts.cgroup;
    let hierarchies = mounted(layout);
    ensure!(!hierarchies.is_empty(), "{}: no cgroup hierarchy is mounted on this host", planner.place);
    match &layout.v2 {
        Some(unified) if layout.v1.is_empty() || kind == "cgroup2" => {
            plan_unified(planner, &layout.mount_point(unified), steps)
        }
        None if kind == "cgroup2" => {
            bail!("{}.type: this host has no cgroup v2 hierarchy", planner.place)
        }
        _ => plan_legacy(planner, &hierarchies, steps),
    }
}

/// A hierarchy as the host has it.
struct Mounted<'a> {
    /// Of a v1 hierarchy: `cpu` and `cpuacct`, or `name=systemd`. The unified one has no names of its own.
    names: &'a [String],
    point: PathBuf,
}

impl Mounted<'_> {
    fn directory_name(&self) -> Cow<'_, str> {
        self.point.file_name().unwrap_or_default().to_string_lossy()
    }
}

fn mounted(layout: &CgroupLayout) -> Vec<Mounted<'_>> {
    let v1 = layout.v1.iter().map(|one| Mounted { names: &one.controllers, point: layout.mount_point(one) });
    let v2 = layout.v2.iter().map(|one| Mounted { names: &[], point: layout.mount_point(one) });
    v1.chain(v2).collect()
}

/// Whether the kernel shows the container's own group as the root of a new mount.
fn has_namespace(planner: &Planner) -> bool {
    planner.request.place(Namespace::Cgroup) != Place::Inherited
}

fn plan_unified(planner: &Planner, point: &Path, steps: &mut Steps) -> Result<()> {
    let filesystem = has_namespace(planner) || !planner.request.in_user_namespace();
    let what = if filesystem {
        let parameters = planner.parameters("cgroup2", steps)?;
        MountWhat::Filesystem { kind: c"cgroup2".to_owned(), parameters }
    } else {
        // The host's tree, which a user namespace cannot mount anew.
        planner.refuse_data("the host's cgroup tree")?;
        MountWhat::Tree { slot: steps.tree(&planner.place, path_string(point)?, true, true, None) }
    };
    let mut mount = Mount::new(planner.inside()?, what).with_options(&planner.options);
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

fn plan_legacy(planner: &Planner, hierarchies: &[Mounted], steps: &mut Steps) -> Result<()> {
    planner.refuse_data("a mount of cgroup v1 hierarchies")?;
    let mut parameters = planner.parameters("tmpfs", steps)?;
    parameters.push(Parameter::Text(c"mode".to_owned(), c"755".to_owned()));
    let tmpfs = MountWhat::Filesystem { kind: c"tmpfs".to_owned(), parameters };
    let mut directory = Mount::new(planner.inside()?, tmpfs).with_options(&planner.options);
    confine(&mut directory);
    directory.read_only_later(steps);
    planner.add(directory, steps);
    for hierarchy in hierarchies {
        plan_hierarchy(planner, hierarchy, steps)?;
    }
    for hierarchy in hierarchies {
        plan_links(planner, hierarchy, steps)?;
    }
    Ok(())
}

/// One hierarchy in its own directory, named as on the host.
fn plan_hierarchy(planner: &Planner, hierarchy: &Mounted, steps: &mut Steps) -> Result<()> {
    let what = if has_namespace(planner) {
        new_hierarchy(hierarchy)?
    } else {
        let source = path_string(&own_group(planner, hierarchy))?;
        MountWhat::Tree { slot: steps.tree(&planner.place, source, true, true, None) }
    };
    let inside = c_string(format!("{}/{}", planner.destination, hierarchy.directory_name()))?;
    let mut mount = Mount::new(inside, what).with_options(&planner.options);
    confine(&mut mount);
    if planner.group.is_none() && planner.request.facts.authority != Authority::Root {
        // The whole hierarchy, for want of a group: see CVE-2023-25809.
        make_read_only(&mut mount);
    }
    planner.add(mount, steps);
    Ok(())
}

/// Controllers that share a hierarchy are each found by their own name too.
fn plan_links(planner: &Planner, hierarchy: &Mounted, steps: &mut Steps) -> Result<()> {
    let directory = hierarchy.directory_name();
    for controller in hierarchy.names.iter().filter(|name| !name.contains('=') && **name != directory) {
        let inside = c_string(format!("{}/{controller}", planner.destination))?;
        steps.birth(Action::Symlink { inside, to: c_string(&*directory)?, replace: false });
    }
    Ok(())
}

fn confine(mount: &mut Mount) {
    mount.set |= CONFINED & !mount.clear;
}

/// As mount(8) would be asked: `cpu,cpuacct`, or `none,name=systemd`.
fn new_hierarchy(hierarchy: &Mounted) -> Result<MountWhat> {
    let source = Parameter::Text(c"source".to_owned(), c"cgroup".to_owned());
    if hierarchy.names.is_empty() {
        return Ok(MountWhat::Filesystem { kind: c"cgroup2".to_owned(), parameters: vec![source] });
    }
    let mut parameters = vec![source];
    for name in hierarchy.names {
        match name.split_once('=') {
            None => parameters.push(Parameter::Flag(c_string(name.as_str())?)),
            Some((key, value)) => {
                parameters.push(Parameter::Flag(c"none".to_owned()));
                parameters.push(Parameter::Text(c_string(key)?, c_string(value)?));
            }
        }
    }
    Ok(MountWhat::Filesystem { kind: c"cgroup".to_owned(), parameters })
}

/// The container's group on the host; where it has none, the whole hierarchy.
fn own_group(planner: &Planner, hierarchy: &Mounted) -> PathBuf {
    match planner.group {
        Some(group) => hierarchy.point.join(group.strip_prefix("/").unwrap_or(group)),
        None => hierarchy.point.clone(),
    }
}

fn path_string(path: &Path) -> Result<CString> {
    c_string(path.as_os_str().as_encoded_bytes())
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::super::cgroup::Hierarchy;
    use super::super::testing::Given;
    use super::super::{Open, mounts};
    use super::*;

    fn hierarchy(controllers: &[&str], directory: &str) -> Hierarchy {
        let controllers = controllers.iter().map(|name| name.to_string()).collect();
        Hierarchy { controllers, directory: directory.into() }
    }

    fn host(v1: Vec<Hierarchy>, v2: Option<Hierarchy>) -> CgroupLayout {
        CgroupLayout { root: CGROUP.into(), v1, v2 }
    }

    fn unified_host() -> CgroupLayout {
        host(vec![], Some(hierarchy(&["cpu"], "")))
    }

    fn hybrid_host() -> CgroupLayout {
        let v1 = vec![hierarchy(&["cpu", "cpuacct"], "cpu,cpuacct"), hierarchy(&["name=systemd"], "systemd")];
        host(v1, Some(hierarchy(&[], "unified")))
    }

    fn given(cgroup: CgroupLayout, namespaces: Value, mount: Value) -> Given {
        let mut mount = mount;
        mount["destination"] = json!("/sys/fs/cgroup");
        let mut given = Given::new(json!({"mounts": [mount], "linux": {"namespaces": namespaces}}));
        given.facts.cgroup = cgroup;
        given
    }

    fn planned(given: &Given, group: Option<&str>) -> Result<Steps> {
        let mut steps = Steps::new(given.facts.authority);
        mounts::plan(&given.request(), group.map(Path::new), &mut steps)?;
        Ok(steps)
    }

    fn printed(steps: &Steps) -> Vec<String> {
        steps.listed().iter().map(|step| print(&step.action, steps)).collect()
    }

    fn print(action: &Action, steps: &Steps) -> String {
        let mount = match action {
            Action::Mount(mount) => mount,
            Action::Symlink { inside, to, .. } => {
                return format!("{} -> {}", inside.to_string_lossy(), to.to_string_lossy());
            }
            other => panic!("{other:?}"),
        };
        let what = match &mount.what {
            MountWhat::Filesystem { kind, parameters } => {
                let mut words = vec![kind.to_string_lossy().into_owned()];
                words.extend(parameters.iter().map(|parameter| match parameter {
                    Parameter::Flag(key) => key.to_string_lossy().into_owned(),
                    Parameter::Text(key, value) => {
                        format!("{}={}", key.to_string_lossy(), value.to_string_lossy())
                    }
                }));
                words.join(" ")
            }
            MountWhat::Tree { slot } => match steps.opened().iter().find(|(opened, _)| opened == slot) {
                Some((_, Open::Tree { source, .. })) => source.to_string_lossy().into_owned(),
                other => panic!("{other:?}"),
            },
            other => panic!("{other:?}"),
        };
        let read_only = if mount.set & libc::MOUNT_ATTR_RDONLY != 0 { " ro" } else { "" };
        format!("{what} on {}{read_only}", mount.inside.to_string_lossy())
    }

    const CGROUP: &str = "/sys/fs/cgroup";

    #[test]
    fn a_unified_host_mounts_one_filesystem() {
        let mount = json!({"type": "cgroup", "source": "cgroup", "options": ["ro", "nsdelegate"]});
        for namespaces in [json!([{"type": "cgroup"}]), json!([])] {
            let steps = planned(&given(unified_host(), namespaces, mount.clone()), None).unwrap();
            assert_eq!(printed(&steps), ["cgroup2 source=cgroup nsdelegate on /sys/fs/cgroup ro"]);
        }
    }

    #[test]
    fn who_may_have_to_do_without_a_group_sees_whole_hierarchies_read_only() {
        let mount = json!({"type": "cgroup", "source": "cgroup"});
        let trees = |path: Option<&str>| {
            let mut given = given(hybrid_host(), json!([{"type": "mount"}]), mount.clone());
            given.facts.authority = Authority::NamespacedRoot;
            given.spec.set_process(Some(Default::default()));
            let linux = given.spec.linux_mut().as_mut().unwrap();
            linux.set_cgroups_path(path.map(PathBuf::from));
            let plan = super::super::steps::birth(&given.request()).unwrap();
            let systemd = plan.steps.iter().find_map(|step| match &step.action {
                Action::Mount(mount) if mount.inside.as_c_str() == c"/sys/fs/cgroup/systemd" => Some(mount),
                _ => None,
            });
            let Some(Mount { what: MountWhat::Tree { slot }, set, .. }) = systemd.map(|mount| &**mount)
            else {
                panic!("{plan:?}")
            };
            let Some((_, Open::Tree { source, .. })) = plan.open.iter().find(|(opened, _)| opened == slot)
            else {
                panic!("{plan:?}")
            };
            (source.to_string_lossy().into_owned(), set & libc::MOUNT_ATTR_RDONLY != 0)
        };
        assert_eq!(trees(None), ("/sys/fs/cgroup/systemd".to_string(), true));
        assert_eq!(trees(Some("/mine")), ("/sys/fs/cgroup/systemd/mine".to_string(), false));
    }

    #[test]
    fn a_user_namespace_without_a_cgroup_namespace_sees_the_hosts_tree() {
        let mount = json!({"type": "cgroup"});
        let given = given(unified_host(), json!([{"type": "user"}]), mount);
        assert_eq!(printed(&planned(&given, Some("web")).unwrap()), [format!("{CGROUP} on {CGROUP}")]);
    }

    #[test]
    fn cve_2023_25809_the_callers_groups_are_read_only() {
        let mut given = given(unified_host(), json!([]), json!({"type": "cgroup", "options": ["rw", "rrw"]}));
        given.facts.authority = Authority::NamespacedRoot;
        let steps = planned(&given, Some("web")).unwrap();
        assert_eq!(printed(&steps), [format!("{CGROUP} on {CGROUP} ro")]);
        let Action::Mount(mount) = &steps.listed()[0].action else { panic!() };
        assert_eq!(mount.set_recursive, libc::MOUNT_ATTR_RDONLY);
        assert_eq!((mount.clear, mount.clear_recursive), (0, 0));
    }

    #[test]
    fn without_a_namespace_the_groups_of_the_container_are_bound() {
        let given = given(hybrid_host(), json!([]), json!({"type": "cgroup", "options": ["rw"]}));
        assert_eq!(
            printed(&planned(&given, Some("/engine/web")).unwrap()),
            [
                "tmpfs mode=755 on /sys/fs/cgroup",
                "/sys/fs/cgroup/cpu,cpuacct/engine/web on /sys/fs/cgroup/cpu,cpuacct",
                "/sys/fs/cgroup/systemd/engine/web on /sys/fs/cgroup/systemd",
                "/sys/fs/cgroup/unified/engine/web on /sys/fs/cgroup/unified",
                "/sys/fs/cgroup/cpu -> cpu,cpuacct",
                "/sys/fs/cgroup/cpuacct -> cpu,cpuacct",
            ]
        );
    }

    #[test]
    fn a_container_without_a_group_sees_the_hierarchies() {
        let given = given(hybrid_host(), json!([]), json!({"type": "cgroup"}));
        assert_eq!(
            printed(&planned(&given, None).unwrap())[2],
            "/sys/fs/cgroup/systemd on /sys/fs/cgroup/systemd"
        );
    }

    #[test]
    fn with_a_namespace_every_hierarchy_is_mounted_anew() {
        let mount = json!({"type": "cgroup", "options": ["ro"]});
        let given = given(hybrid_host(), json!([{"type": "cgroup"}]), mount);
        let steps = planned(&given, Some("web")).unwrap();
        assert_eq!(
            printed(&steps)[..4],
            [
                "tmpfs mode=755 on /sys/fs/cgroup",
                "cgroup source=cgroup cpu cpuacct on /sys/fs/cgroup/cpu,cpuacct ro",
                "cgroup source=cgroup none name=systemd on /sys/fs/cgroup/systemd ro",
                "cgroup2 source=cgroup on /sys/fs/cgroup/unified ro",
            ]
        );
        assert_eq!(steps.deferred().len(), 1, "the tmpfs, once the links are in it");
    }

    #[test]
    fn every_mount_of_a_hierarchy_is_confined() {
        let given = given(hybrid_host(), json!([]), json!({"type": "cgroup", "options": ["exec"]}));
        for step in planned(&given, None).unwrap().listed() {
            if let Action::Mount(mount) = &step.action {
                assert_eq!(mount.set, libc::MOUNT_ATTR_NOSUID | libc::MOUNT_ATTR_NODEV, "{mount:?}");
            }
        }
    }

    #[test]
    fn a_hybrid_host_can_mount_the_unified_hierarchy_alone() {
        let given = given(hybrid_host(), json!([]), json!({"type": "cgroup2", "source": "cgroup2"}));
        assert_eq!(printed(&planned(&given, None).unwrap()), ["cgroup2 source=cgroup2 on /sys/fs/cgroup"]);
    }

    #[test]
    fn impossible_cgroup_mounts_are_refused_by_place() {
        let refusal = |host, mount| planned(&given(host, json!([]), mount), None).unwrap_err().to_string();
        let mount = json!({"type": "cgroup", "options": ["ro", "nsdelegate"]});
        assert_eq!(
            refusal(hybrid_host(), mount.clone()),
            "mounts[0].options[1]: \"nsdelegate\" is not an option of a mount of cgroup v1 hierarchies"
        );
        assert_eq!(
            refusal(CgroupLayout::default(), mount),
            "mounts[0]: no cgroup hierarchy is mounted on this host"
        );
        let legacy = CgroupLayout { v2: None, ..hybrid_host() };
        assert_eq!(
            refusal(legacy, json!({"type": "cgroup2"})),
            "mounts[0].type: this host has no cgroup v2 hierarchy"
        );
    }
}
