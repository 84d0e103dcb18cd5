//! Where control groups are: the hierarchies of this host, and a container's path below them.
//!
//! Runs outside, before anything exists. Pure: `facts/cgroup.rs` looks at the host, `host/cgroup/` makes and
//! removes the groups.

use std::path::{Component, Path, PathBuf};

use anyhow::{Result, bail};
use serde::{Deserialize, Serialize};

use super::GroupPlan;
use super::facts::Authority;
use super::limits;
use super::request::{Cgroups, Request};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Version {
    V1,
    V2,
}

/// The hierarchies that this host has mounted: v1 ones, the v2 one, or both (hybrid).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CgroupLayout {
    /// Where they are mounted, `/sys/fs/cgroup` but in tests.
    pub root: PathBuf,
    pub v1: Vec<Hierarchy>,
    pub v2: Option<Hierarchy>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hierarchy {
    /// `cpu` and `cpuacct`, or `name=systemd`; for v2 the controllers that its root has to give.
    pub controllers: Vec<String>,
    /// Below the layout's root, and empty where that is the mount point itself.
    pub directory: PathBuf,
}

/// The groups of one container, as the state file keeps them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Location {
    pub root: PathBuf,
    pub v1: Vec<Place>,
    pub v2: Option<Place>,
}

/// A path in one hierarchy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    pub hierarchy: Hierarchy,
    /// Relative to the hierarchy's mount point.
    pub path: PathBuf,
    /// How many leading components of `path` were there before the container: they are not ours to remove.
    pub found: usize,
}

impl CgroupLayout {
    /// Whether a version's files control this. The core of v2 is always there.
    pub fn has(&self, version: Version, controller: &str) -> bool {
        let lists = |hierarchy: &Hierarchy| hierarchy.controllers.iter().any(|name| name == controller);
        match version {
            Version::V1 => self.v1.iter().any(lists),
            Version::V2 => self.v2.as_ref().is_some_and(|unified| controller == "cgroup" || lists(unified)),
        }
    }

    pub fn mount_point(&self, hierarchy: &Hierarchy) -> PathBuf {
        // Joined with nothing, a path would end in a slash.
        self.root.join(&hierarchy.directory).components().collect()
    }
}

impl Location {
    /// The hierarchies that it has a group in.
    pub fn layout(&self) -> CgroupLayout {
        CgroupLayout {
            root: self.root.clone(),
            v1: self.v1.iter().map(|place| place.hierarchy.clone()).collect(),
            v2: self.v2.as_ref().map(|place| place.hierarchy.clone()),
        }
    }
}

impl Place {
    pub fn depth(&self) -> usize {
        self.path.components().count()
    }
}

/// The container's group and what is limited in it; `None` where there is nothing to make one on.
pub fn plan(request: &Request) -> Result<Option<GroupPlan>> {
    match request.options.cgroups {
        Cgroups::Files => {}
        Cgroups::Disabled => return Ok(None),
        Cgroups::Systemd => {
            bail!("linux.cgroupsPath: groups are not made through systemd yet; leave out --systemd-cgroup")
        }
    }
    let linux = request.linux();
    let resources = linux.and_then(|linux| linux.resources().as_ref());
    let layout = request.facts.cgroup.clone();
    let asked = linux.and_then(|linux| linux.cgroups_path().as_deref());
    let mut path = path(asked, request.id)?;
    let required = asked.is_some_and(|path| !path.as_os_str().is_empty());
    let delegated = request.facts.authority == Authority::User;
    if delegated && !required && layout.v1.is_empty() {
        // What is delegated to a user is around the group that it runs in. That one has processes, so none of its
        // children could have controllers (cgroups(7)): a sibling, as in runc.
        let own = &request.facts.own_group;
        path = own.parent().unwrap_or(own).join(path);
    }
    let limits = limits::plan(resources, &layout, request.facts.authority)?;
    let has_hierarchies = !layout.v1.is_empty() || layout.v2.is_some();
    Ok(has_hierarchies.then_some(GroupPlan { layout, path, limits, required, delegated }))
}

/// NAME_MAX of every filesystem (limits.h).
const LONGEST_NAME: usize = 255;

/// The container's path, relative to the mount point of every hierarchy.
///
/// An absolute `linux.cgroupsPath` is relative to the mount point (the specification's rule). A relative one is
/// too, as crun does: the place does not depend on which group the runtime was called from. Without one the
/// group is `corten-ID`: a single component is one mkdir(2) per hierarchy, cannot be somebody else's group, and
/// leaves no shared parent behind that two containers would have to agree to remove.
pub fn path(cgroups_path: Option<&Path>, id: &str) -> Result<PathBuf> {
    let asked = match cgroups_path {
        Some(path) if !path.as_os_str().is_empty() => path,
        _ => return Ok(PathBuf::from(format!("corten-{id}"))),
    };
    let mut path = PathBuf::new();
    for component in asked.components() {
        match component {
            Component::Normal(name) if name.len() > LONGEST_NAME => {
                bail!("linux.cgroupsPath: {name:?} is longer than {LONGEST_NAME} bytes")
            }
            Component::Normal(name) => path.push(name),
            Component::RootDir | Component::CurDir => {}
            Component::ParentDir | Component::Prefix(_) => {
                bail!("linux.cgroupsPath: {asked:?} leaves its place with a \"..\"")
            }
        }
    }
    if path.as_os_str().is_empty() {
        bail!(
            "linux.cgroupsPath: {asked:?} is the root of the hierarchy, which cannot be a container's group"
        );
    }
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(cgroups_path: &str) -> Result<PathBuf> {
        path(Some(Path::new(cgroups_path)), "web")
    }

    #[test]
    fn absolute_relative_and_absent_paths_are_below_the_mount_point() {
        assert_eq!(ask("/pods/web").unwrap(), Path::new("pods/web"));
        assert_eq!(ask("pods//web/./x/").unwrap(), Path::new("pods/web/x"));
        assert_eq!(ask("").unwrap(), Path::new("corten-web"));
        assert_eq!(path(None, "web").unwrap(), Path::new("corten-web"));
    }

    #[test]
    fn a_path_that_climbs_or_names_the_root_is_refused() {
        for refused in ["/pods/../../init.scope", "..", "/", "./"] {
            let error = ask(refused).unwrap_err().to_string();
            assert!(error.starts_with("linux.cgroupsPath: "), "{error}");
        }
    }

    #[test]
    fn on_a_hybrid_host_a_controller_belongs_to_the_hierarchy_that_has_it() {
        let hierarchy = |controllers: &[&str]| Hierarchy {
            controllers: controllers.iter().map(|name| name.to_string()).collect(),
            directory: PathBuf::new(),
        };
        let layout = CgroupLayout {
            v1: vec![hierarchy(&["cpu", "cpuacct"])],
            v2: Some(hierarchy(&["hugetlb"])),
            ..CgroupLayout::default()
        };
        assert!(layout.has(Version::V1, "cpuacct") && !layout.has(Version::V2, "cpuacct"));
        assert!(layout.has(Version::V2, "hugetlb") && !layout.has(Version::V1, "hugetlb"));
        assert!(layout.has(Version::V2, "cgroup") && !layout.has(Version::V1, "cgroup"));
    }
}
