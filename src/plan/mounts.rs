//! Mounts: what each entry of the configuration's list becomes, in its order.
//!
//! Runs outside. Options are read by `mount_options.rs`, cgroup mounts have a room of their own.

use std::ffi::CString;
use std::path::{Component, Path};

use anyhow::{Context, Result, bail, ensure};
use oci_spec::runtime::Mount as Entry;

use super::facts::Authority;
use super::filesystem::{self, Maps};
use super::mount_options::{Data, ExplicitMapping, IdMapOption, MountOptions};
use super::namespaces::Place;
use super::request::{Request, c_path, c_string};
use super::steps::Steps;
use super::{Action, IdMap, IdMapping, Mount, MountWhat, Namespace, Parameter, cgroup_mounts, idmap};

/// Files below /proc that something like lxcfs may cover. Whatever else is mounted there could make the
/// container lie to its tools, or to us (CVE-2019-16884).
const ALLOWED_BELOW_PROC: &[&str] = &[
    "/proc/cpuinfo",
    "/proc/diskstats",
    "/proc/loadavg",
    "/proc/meminfo",
    "/proc/net/dev",
    "/proc/slabinfo",
    "/proc/stat",
    "/proc/swaps",
    "/proc/sys/crypto/fips_enabled",
    "/proc/sys/kernel/ns_last_pid",
    "/proc/uptime",
];

/// Filesystems that show a namespace. A user namespace can have a new one only of a namespace that it owns;
/// of the host's, it gets what the host has mounted.
const VIEWS: &[(&str, Namespace, &str)] = &[
    ("mqueue", Namespace::Ipc, "/dev/mqueue"),
    ("proc", Namespace::Pid, "/proc"),
    ("sysfs", Namespace::Network, "/sys"),
];

/// All mounts of the configuration. `group` is the container's own, below every hierarchy's mount point.
pub fn plan(request: &Request, group: Option<&Path>, steps: &mut Steps) -> Result<()> {
    for (index, entry) in entries(request).iter().enumerate() {
        Planner::new(request, group, entry, format!("mounts[{index}]"))?.plan(steps)?;
    }
    Ok(())
}

/// Whether the configuration brings its own `/dev` along, which then is not ours to fill.
pub fn binds_dev(request: &Request) -> bool {
    entries(request).iter().any(|entry| {
        let listed = |name| entry.options().iter().flatten().any(|option| option == name);
        let bind = entry.typ().as_deref() == Some("bind") || listed("bind") || listed("rbind");
        bind && !listed("remount") && clean(entry.destination()) == "/dev"
    })
}

fn entries<'a>(request: &Request<'a>) -> &'a [Entry] {
    request.spec.mounts().as_deref().unwrap_or_default()
}

/// A path inside, absolute and without `.` and `..`.
pub fn clean(path: &Path) -> String {
    let mut cleaned = String::new();
    for component in path.components() {
        match component {
            Component::Normal(name) => {
                cleaned.push('/');
                cleaned.push_str(&name.to_string_lossy());
            }
            Component::ParentDir => cleaned.truncate(cleaned.rfind('/').unwrap_or(0)),
            Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
        }
    }
    if cleaned.is_empty() { "/".to_owned() } else { cleaned }
}

impl Mount {
    pub fn new(inside: CString, what: MountWhat) -> Mount {
        Mount {
            place: None,
            inside,
            what,
            set: 0,
            clear: 0,
            set_recursive: 0,
            clear_recursive: 0,
            propagation: Vec::new(),
            copy_up: false,
            adopt_mode: false,
            adopt_owner: false,
            copy_symlink: false,
            keep: None,
            follow: true,
            onto_procfs: false,
        }
    }

    pub fn with_options(self, options: &MountOptions) -> Mount {
        Mount {
            set: options.attributes.set,
            clear: options.attributes.clear,
            set_recursive: options.recursive.set,
            clear_recursive: options.recursive.clear,
            propagation: options.propagation.clone(),
            copy_up: options.copy_up,
            copy_symlink: options.copy_symlink,
            follow: !options.target_no_follow,
            ..self
        }
    }

    /// Leave it writable until everything below it has been made.
    pub fn read_only_later(&mut self, steps: &mut Steps) {
        let asked = (self.set | self.set_recursive) & libc::MOUNT_ATTR_RDONLY != 0;
        if asked {
            self.set &= !libc::MOUNT_ATTR_RDONLY;
            self.set_recursive &= !libc::MOUNT_ATTR_RDONLY;
            let slot = steps.slot();
            self.keep = Some(slot);
            steps.read_only_later(slot);
        }
    }
}

/// One entry of the list, on its way to a step.
pub struct Planner<'a> {
    pub request: &'a Request<'a>,
    pub group: Option<&'a Path>,
    pub entry: &'a Entry,
    pub place: String,
    pub options: MountOptions,
    /// Absolute and clean.
    pub destination: String,
}

impl<'a> Planner<'a> {
    fn new(
        request: &'a Request<'a>,
        group: Option<&'a Path>,
        entry: &'a Entry,
        place: String,
    ) -> Result<Planner<'a>> {
        ensure!(!entry.destination().as_os_str().is_empty(), "{place}.destination: missing");
        let destination = clean(entry.destination());
        ensure!(destination != "/", "{place}.destination: the root is what root.path says");
        let options = MountOptions::parse(entry.options().as_deref().unwrap_or_default(), &place)?;
        Ok(Planner { request, group, entry, place, options, destination })
    }

    fn plan(&self, steps: &mut Steps) -> Result<()> {
        let kind = self.entry.typ().as_deref().unwrap_or_default();
        self.check_proc(kind)?;
        if self.options.remount {
            return self.plan_remount(steps);
        }
        match (self.options.bind, kind) {
            (Some(recursive), _) => self.plan_bind(recursive, steps),
            (None, "bind") => self.plan_bind(false, steps),
            (None, "") => bail!("{}.type: missing, and no option says bind", self.place),
            (None, "cgroup" | "cgroup2") => cgroup_mounts::plan(self, kind, steps),
            (None, kind) => self.plan_filesystem(kind, steps),
        }
    }

    /// `/proc` is a procfs or nothing: programs, and runtimes that enter the container, believe what it says.
    fn check_proc(&self, kind: &str) -> Result<()> {
        let Planner { place, destination, .. } = self;
        if destination == "/proc" {
            let hosts = self.entry.source().as_deref().is_some_and(|source| clean(source) == "/proc");
            let bind = self.options.bind.is_some() || kind == "bind";
            let allowed = self.options.remount || if bind { hosts } else { kind == "proc" };
            ensure!(allowed, "{place}.destination: only a procfs may be mounted on /proc");
        } else if destination.starts_with("/proc/") {
            let allowed = ALLOWED_BELOW_PROC.contains(&destination.as_str());
            ensure!(allowed, "{place}.destination: {destination:?} is inside /proc");
        }
        Ok(())
    }

    fn plan_remount(&self, steps: &mut Steps) -> Result<()> {
        let mut parameters = self.options.superblock.clone();
        if self.options.bind.is_some() {
            self.pass_over_values(steps)?;
            parameters.clear();
        } else {
            parameters.extend(self.options.data.iter().map(|data| data.parameter.clone()));
        }
        let mount = Mount::new(self.inside()?, MountWhat::Remount { parameters });
        self.add(mount.with_options(&self.options), steps);
        Ok(())
    }

    fn plan_bind(&self, recursive: bool, steps: &mut Steps) -> Result<()> {
        self.pass_over_values(steps)?;
        self.refuse_copy_up()?;
        let source = self.entry.source().as_deref().filter(|source| !source.as_os_str().is_empty());
        let source = source.with_context(|| format!("{}.source: missing", self.place))?;
        let source = c_path(&self.request.bundle.join(source), format_args!("{}.source", self.place))?;
        let follow = !self.options.source_no_follow && !self.options.copy_symlink;
        let idmap = self.idmap(steps)?;
        let slot = steps.tree(&format!("{}.source", self.place), source, recursive, follow, idmap);
        let mut mount = Mount::new(self.inside()?, MountWhat::Tree { slot }).with_options(&self.options);
        if self.destination == "/dev" {
            mount.read_only_later(steps);
        }
        self.add(mount, steps);
        Ok(())
    }

    fn plan_filesystem(&self, kind: &str, steps: &mut Steps) -> Result<()> {
        self.refuse_idmap()?;
        if kind != "tmpfs" {
            self.refuse_copy_up()?;
        }
        let what = self.filesystem_or_view(kind, steps)?;
        let mut mount = Mount::new(self.inside()?, what).with_options(&self.options);
        match kind {
            // CVE-2019-19921: a symbolic link here would put what the container trusts somewhere else.
            "proc" | "sysfs" => mount.follow = false,
            "tmpfs" => {
                let given = |option| filesystem::has(&self.options.data, option);
                mount.adopt_mode = !given("mode");
                mount.adopt_owner = mount.copy_up && !given("uid") && !given("gid");
            }
            _ => {}
        }
        if kind == "sysfs" && matches!(mount.what, MountWhat::FilesystemOrTree { .. }) {
            // CVE-2023-25809: what is mounted below the host's /sys must not stay writable.
            mount.set_recursive |= libc::MOUNT_ATTR_RDONLY;
            mount.clear_recursive &= !libc::MOUNT_ATTR_RDONLY;
        }
        if kind == "tmpfs" || self.destination == "/dev" {
            mount.read_only_later(steps);
        }
        self.add(mount, steps);
        Ok(())
    }

    fn filesystem_or_view(&self, kind: &str, steps: &mut Steps) -> Result<MountWhat> {
        let parameters = self.parameters(kind, steps)?;
        let kind_name = c_string(kind)?;
        let view = VIEWS.iter().find(|(shown, _, _)| *shown == kind);
        if let Some(&(_, namespace, host_path)) = view.filter(|_| self.request.in_user_namespace()) {
            let owned = match self.request.place(namespace) {
                Place::New => true,
                Place::Inherited => false,
                // Another pod's /sys would do no harm, another one's processes would confuse.
                Place::Joined(_) => namespace != Namespace::Network,
            };
            if !owned {
                let slot = steps.tree(&self.place, c_string(host_path)?, true, true, None);
                return Ok(MountWhat::FilesystemOrTree { kind: kind_name, parameters, slot });
            }
        }
        Ok(MountWhat::Filesystem { kind: kind_name, parameters })
    }

    /// What a new filesystem of this kind is told for this mount.
    pub fn parameters(&self, kind: &str, steps: &Steps) -> Result<Vec<Parameter>> {
        let source = self.entry.source().as_deref();
        let maps = Maps { uids: &steps.outside.uid_map, gids: &steps.outside.gid_map };
        filesystem::parameters(self.request, kind, source, &self.options, maps, &self.place)
    }

    pub fn inside(&self) -> Result<CString> {
        c_path(Path::new(&self.destination), format_args!("{}.destination", self.place))
    }

    pub fn add(&self, mount: Mount, steps: &mut Steps) {
        // What may be there has been checked by name.
        let below = self.destination.strip_prefix("/proc");
        let onto_procfs = below.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
        let place = Some(self.place.clone());
        steps.birth(Action::Mount(Box::new(Mount { place, onto_procfs, ..mount })));
    }

    pub fn refuse_data(&self, what: &str) -> Result<()> {
        self.options.data.first().map_or(Ok(()), |data| bail!(self.not_an_option(data, what)))
    }

    /// mount(2) takes `mode=755` and its like for a bind mount, without effect, and configurations have them. A bare
    /// word may be an attribute with a spelling mistake.
    fn pass_over_values(&self, steps: &mut Steps) -> Result<()> {
        for data in &self.options.data {
            let sentence = self.not_an_option(data, "a bind mount");
            ensure!(matches!(data.parameter, Parameter::Text(..)), sentence);
            steps.warn(sentence + ", and has no effect");
        }
        Ok(())
    }

    fn not_an_option(&self, data: &Data, what: &str) -> String {
        let index = data.option;
        let name = self.entry.options().iter().flatten().nth(index).map_or("", String::as_str);
        format!("{}.options[{index}]: {name:?} is not an option of {what}", self.place)
    }

    pub fn refuse_copy_up(&self) -> Result<()> {
        ensure!(!self.options.copy_up, "{}.options: tmpcopyup is for a tmpfs", self.place);
        Ok(())
    }

    pub fn refuse_idmap(&self) -> Result<()> {
        let listed = self.entry.uid_mappings().is_some() || self.entry.gid_mappings().is_some();
        let asked = listed || self.options.idmap.is_some();
        ensure!(!asked, "{}: only a bind mount can have id mappings", self.place);
        Ok(())
    }

    /// The mappings of an idmapped mount: those of the option, of the mount, or of the container.
    fn idmap(&self, steps: &Steps) -> Result<Option<IdMap>> {
        let place = &self.place;
        let uids = self.entry.uid_mappings().as_deref().unwrap_or_default();
        let gids = self.entry.gid_mappings().as_deref().unwrap_or_default();
        ensure!(
            uids.is_empty() == gids.is_empty(),
            "{place}: uidMappings and gidMappings come together or not at all"
        );
        let option = match &self.options.idmap {
            Some(option) => option.clone(),
            None if uids.is_empty() => return Ok(None),
            None => IdMapOption::default(),
        };
        let privileged = self.request.facts.authority != Authority::User;
        ensure!(privileged, "{place}: an idmapped mount needs privileges");
        let container = &steps.outside;
        let (uids, gids) = if let Some(explicit) = &option.explicit {
            (
                idmap::checked(
                    resolve(&explicit.uids, &container.uid_map, place)?,
                    &format!("{place}.options: idmap: uids"),
                )?,
                idmap::checked(
                    resolve(&explicit.gids, &container.gid_map, place)?,
                    &format!("{place}.options: idmap: gids"),
                )?,
            )
        } else if uids.is_empty() {
            (container.uid_map.clone(), container.gid_map.clone())
        } else {
            (
                idmap::parse(uids, &format!("{place}.uidMappings"))?,
                idmap::parse(gids, &format!("{place}.gidMappings"))?,
            )
        };
        ensure!(
            !uids.is_empty() && !gids.is_empty(),
            "{place}.options: idmap needs uidMappings and gidMappings, or a new user namespace"
        );
        Ok(Some(IdMap { uids, gids, recursive: option.recursive }))
    }
}

/// Mappings written in an option, with relative ones moved as the container's namespace moves their inside id.
fn resolve(explicit: &[ExplicitMapping], container: &[IdMapping], place: &str) -> Result<Vec<IdMapping>> {
    let resolve_one = |explicit: &ExplicitMapping| {
        let IdMapping { inside, outside, count } = explicit.mapping;
        if !explicit.relative {
            return Ok(explicit.mapping);
        }
        let moved = idmap::outside(container, inside)
            .and_then(|moved| outside.checked_add(moved)?.checked_sub(inside));
        let outside = moved.with_context(|| {
            format!("{place}.options: idmap: {inside} is not mapped in the user namespace")
        })?;
        Ok(IdMapping { inside, outside, count })
    };
    explicit.iter().map(resolve_one).collect()
}

#[cfg(test)]
mod tests;
