//! Where control groups are: the hierarchies of this host, and a container's path below them.
//!
//! Runs outside, before anything exists. Pure: `facts/cgroup.rs` looks at the host, `host/cgroup/` makes and
//! removes the groups.

use std::path::{Component, Path, PathBuf};

use anyhow::{Result, bail};
use oci_spec::runtime::Mount;
use serde::{Deserialize, Serialize};

use super::annotations::{self, DELEGATE_CGROUP};
use super::facts::Authority;
use super::namespaces::Place as NamespacePlace;
use super::request::{Cgroups, Request};
use super::steps::Steps;
use super::systemd::{self, Manager};
use super::{GroupPlan, Namespace, idmap, limits};

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
    /// Whose groups they are, where systemd has made them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unit: Option<Unit>,
}

/// A unit that systemd keeps, as the state file remembers it: callers forget the option, and their environment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unit {
    pub name: String,
    pub manager: Manager,
    /// Of the bus that this manager is on, such as `unix:path=/run/dbus/system_bus_socket`.
    pub bus: String,
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
        let mut path = self.root.clone();
        // Joined with nothing, it would end in a slash.
        if !hierarchy.directory.as_os_str().is_empty() {
            path.push(&hierarchy.directory);
        }
        path
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

/// Refuse a driver that this host has no groups for, whatever the configuration says.
pub fn check_driver(request: &Request) -> Result<()> {
    let asked = request.options.cgroups == Cgroups::Systemd;
    if asked && Manager::of(request.facts.authority) == Manager::User && !request.facts.cgroup.v1.is_empty() {
        bail!(
            "--systemd-cgroup: on cgroup v1, which this host has, a user's systemd has no groups to give: leave the \
             option out, and limits too"
        );
    }
    Ok(())
}

/// What is asked for in vain where no groups are to be made.
pub fn warn_of_no_limits(request: &Request, steps: &mut Steps) -> Result<()> {
    let resources = request.linux().and_then(|linux| linux.resources().as_ref());
    let asked = resources.map(|resources| limits::settings(resources, &request.facts.cgroup)).transpose()?;
    if asked.is_some_and(|asked| !asked.is_empty()) {
        steps.warn(
            "linux.resources: without groups (--cgroup-manager disabled) nothing is limited".to_string(),
        );
    }
    Ok(())
}

/// The container's group and what is limited in it; `None` where there is nothing to make one on.
pub fn plan(request: &Request) -> Result<Option<GroupPlan>> {
    if request.options.cgroups == Cgroups::Disabled {
        return Ok(None);
    }
    let linux = request.linux();
    let resources = linux.and_then(|linux| linux.resources().as_ref());
    let layout = request.facts.cgroup.clone();
    let limits = limits::plan(resources, &layout, request.facts.authority)?;
    let delegate = delegate(request)?;
    let owner = owner(request, delegate.is_some())?;
    if request.options.cgroups == Cgroups::Systemd {
        let scope = systemd::plan(request, &limits)?;
        let path = scope.path()?;
        return Ok(Some(GroupPlan {
            layout,
            path,
            limits,
            required: true,
            delegated: false,
            scope: Some(scope),
            delegate,
            owner,
        }));
    }
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
    let has_hierarchies = !layout.v1.is_empty() || layout.v2.is_some();
    let required = required || delegate.is_some();
    Ok(has_hierarchies.then_some(GroupPlan {
        layout,
        path,
        limits,
        required,
        delegated,
        scope: None,
        delegate,
        owner,
    }))
}

/// The group below, as crun has it: what is written like an absolute path is relative as well.
fn delegate(request: &Request) -> Result<Option<PathBuf>> {
    let Some(asked) = annotations::get(request.spec, DELEGATE_CGROUP).filter(|asked| !asked.is_empty())
    else {
        return Ok(None);
    };
    let field = format!("annotations.{DELEGATE_CGROUP}");
    if !request.facts.cgroup.v1.is_empty() || request.facts.cgroup.v2.is_none() {
        bail!("{field}: {asked:?} is asked for, but only cgroup v2 alone can be delegated to a container");
    }
    below(Path::new(asked), &field, "the container's group").map(Some)
}

/// Who is to own the group, where that is not us: the container's user, if the container has a cgroup namespace and
/// mounts its group to write to it (config-linux.md, Cgroup ownership) or was given one. On v1 delegation is not safe.
fn owner(request: &Request, given: bool) -> Result<Option<u32>> {
    let facts = request.facts;
    let asks = || request.spec.mounts().iter().flatten().any(is_writable_group);
    let delegates = facts.authority != Authority::User
        && facts.cgroup.v1.is_empty()
        && request.place(Namespace::Cgroup) == NamespacePlace::New
        && (given || asks());
    let Some(process) = request.spec.process().as_ref().filter(|_| delegates) else { return Ok(None) };
    let uid = process.user().uid();
    let owner = match request.place(Namespace::User) {
        NamespacePlace::Inherited => Some(uid),
        NamespacePlace::New => {
            let mappings = request.linux().and_then(|linux| linux.uid_mappings().as_deref());
            idmap::outside(&idmap::parse(mappings.unwrap_or_default(), "linux.uidMappings")?, uid)
        }
        // What is mapped there is not for us to know.
        NamespacePlace::Joined(_) => None,
    };
    Ok(owner.filter(|owner| *owner != facts.euid))
}

fn is_writable_group(mount: &Mount) -> bool {
    mount.source().as_deref() == Some(Path::new("cgroup"))
        && mount.destination() == Path::new("/sys/fs/cgroup")
        && !mount.options().iter().flatten().any(|option| option == "ro")
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
    below(asked, "linux.cgroupsPath", "the root of the hierarchy")
}

/// A path that stays below where it begins, and is not `that` place itself.
fn below(asked: &Path, field: &str, that: &str) -> Result<PathBuf> {
    let mut path = PathBuf::new();
    for component in asked.components() {
        match component {
            Component::Normal(name) if name.len() > LONGEST_NAME => {
                bail!("{field}: {name:?} is longer than {LONGEST_NAME} bytes")
            }
            Component::Normal(name) if name.as_encoded_bytes().contains(&b'\n') => {
                bail!("{field}: {name:?} has a line break, and no group's name may")
            }
            Component::Normal(name) => path.push(name),
            Component::RootDir | Component::CurDir => {}
            Component::ParentDir | Component::Prefix(_) => {
                bail!("{field}: {asked:?} leaves its place with a \"..\"")
            }
        }
    }
    if path.as_os_str().len() >= libc::PATH_MAX as usize {
        bail!("{field}: is longer than a path can be");
    }
    if path.as_os_str().is_empty() {
        bail!("{field}: {asked:?} is {that}, and not a group below it");
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
    fn a_group_is_given_to_who_may_write_to_it() {
        use serde_json::{Value, json};

        use crate::plan::testing::Given;

        let owner = |change: &dyn Fn(&mut Value), authority| {
            let mapping = json!([{"containerID": 0, "hostID": 100_000, "size": 65536}]);
            let mut config = json!({
                "process": {"cwd": "/", "args": ["a"], "user": {"uid": 7, "gid": 0}},
                "mounts": [{"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup",
                            "options": ["rw"]}],
                "linux": {"namespaces": [{"type": "user"}, {"type": "mount"}, {"type": "cgroup"}],
                          "uidMappings": mapping, "gidMappings": mapping},
            });
            change(&mut config);
            let mut given = Given::new(config).run_by(authority);
            let v2 = Hierarchy { controllers: Vec::new(), directory: PathBuf::new() };
            given.facts.cgroup = CgroupLayout { v2: Some(v2), ..CgroupLayout::default() };
            let request = given.request();
            owner(&request, delegate(&request).unwrap().is_some()).unwrap()
        };
        assert_eq!(owner(&|_| {}, Authority::Root), Some(100_007));
        assert_eq!(owner(&|_| {}, Authority::User), None);
        let without = |index: usize| {
            move |config: &mut Value| {
                drop(config["linux"]["namespaces"].as_array_mut().unwrap().remove(index))
            }
        };
        assert_eq!(owner(&without(0), Authority::Root), Some(7));
        assert_eq!(owner(&without(2), Authority::Root), None);
        assert_eq!(owner(&|config| config["mounts"][0]["options"] = json!(["ro"]), Authority::Root), None);
        assert_eq!(owner(&|config| config["mounts"] = json!([]), Authority::Root), None);
        // A group of its own is the container's, whether or not it asks to write to it.
        let below = |config: &mut Value| {
            config["mounts"] = json!([]);
            config["annotations"] = json!({"run.oci.delegate-cgroup": "x"});
        };
        assert_eq!(owner(&below, Authority::Root), Some(100_007));
        assert_eq!(
            owner(&|config| config["linux"]["namespaces"][2]["path"] = json!("/x"), Authority::Root),
            None
        );
        let root = |config: &mut Value| {
            without(0)(config);
            config["process"]["user"]["uid"] = json!(0);
        };
        assert_eq!(owner(&root, Authority::Root), None);
    }

    #[test]
    fn a_container_can_be_given_a_group_below_its_own_on_v2_alone() {
        use crate::plan::testing::Given;
        use serde_json::json;

        let hierarchy = || Hierarchy { controllers: vec!["pids".into()], directory: PathBuf::new() };
        let v2 = CgroupLayout { v2: Some(hierarchy()), ..CgroupLayout::default() };
        let hybrid = CgroupLayout { v1: vec![hierarchy()], ..v2.clone() };
        let ask = |name: &str, layout: &CgroupLayout| {
            let mut given = Given::new(json!({"annotations": {"run.oci.delegate-cgroup": name}}));
            given.facts.cgroup = layout.clone();
            delegate(&given.request()).map_err(|error| error.to_string())
        };
        for (name, path) in [("payload", "payload"), ("/init", "init"), ("a//b/", "a/b")] {
            assert_eq!(ask(name, &v2).unwrap().as_deref(), Some(Path::new(path)));
        }
        assert_eq!(ask("", &hybrid), Ok(None));
        for (name, layout, reason) in [
            ("../other", &v2, "leaves its place with a \"..\""),
            ("/", &v2, "is the container's group, and not a group below it"),
            ("payload", &hybrid, "only cgroup v2 alone"),
            ("payload", &CgroupLayout::default(), "only cgroup v2 alone"),
        ] {
            let error = ask(name, layout).unwrap_err();
            assert!(
                error.starts_with("annotations.run.oci.delegate-cgroup: ") && error.contains(reason),
                "{error}"
            );
        }
    }

    #[test]
    fn a_users_systemd_has_no_groups_to_give_where_there_are_v1_hierarchies() {
        use crate::plan::steps::birth;
        use crate::plan::testing::Given;
        use serde_json::json;

        let hierarchy = || Hierarchy { controllers: vec!["pids".into()], directory: PathBuf::new() };
        let hybrid = CgroupLayout { v1: vec![hierarchy()], v2: Some(hierarchy()), ..CgroupLayout::default() };
        for (authority, refused) in [(Authority::User, true), (Authority::Root, false)] {
            for (v1, refused) in [(hybrid.v1.clone(), refused), (Vec::new(), false)] {
                let process = json!({"cwd": "/", "args": ["a"], "user": {"uid": 0, "gid": 0}});
                let linux = json!({"namespaces": [{"type": "mount"}]});
                let mut given = Given::new(json!({"process": process, "linux": linux})).run_by(authority);
                given.facts.cgroup = CgroupLayout { v1, ..hybrid.clone() };
                given.options.cgroups = Cgroups::Systemd;
                match birth(&given.request()) {
                    Err(error) => {
                        let error = format!("{error:#}");
                        assert!(refused && error.starts_with("--systemd-cgroup: "), "{error}");
                    }
                    Ok(_) => assert!(!refused),
                }
            }
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
