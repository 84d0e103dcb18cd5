//! Checkpoint and restore: what CRIU is told about a container, from its plan.
//!
//! Runs outside. Pure. What init would bring in from the host is external to CRIU: a dump names it, and a restore says
//! where it is, by the configuration alone and never by what the image says (CVE-2024-8676). Both go by the destination
//! as the configuration writes it, so no name depends on what is in a root filesystem (CVE-2026-119101).

use std::ffi::{CStr, CString, OsStr};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value as Json;

use super::annotations::{self, CRIU_CONFIG};
use super::cgroup::Location;
use super::confinement::{APPARMOR_COMMAND, APPARMOR_EXEC, SELINUX_EXEC};
use super::criu::{self, Features, Fields, Kind, Needs, Request, Value, opts};
use super::facts::Authority;
use super::namespaces::{KINDS, Place};
use super::request::{self, c_string};
use super::{Action, MountWhat, Namespace, Open, Plan, Slot};

/// The oldest CRIU that knows all that is asked of it, and the oldest that keeps no_new_privileges.
const OLDEST: (u64, u64) = (3, 16);
const KEEPS_NO_NEW_PRIVILEGES: (u64, u64) = (3, 18);

/// Where CRIU writes what it does, below the work path.
const DUMP_LOG: &str = "dump.log";
const RESTORE_LOG: &str = "restore.log";

/// The file of a checkpoint that says what the standard streams were: a list of three names.
pub const DESCRIPTORS: &str = "descriptors.json";

/// All that CRIU has to say: a failure is explained by what came before it.
const LOG_LEVEL: u64 = 4;

/// What the caller asks for.
#[derive(Debug, Default)]
pub struct Wishes {
    /// Absolute, as all paths here but the parent's.
    pub image_path: PathBuf,
    /// Where the log goes, and what CRIU needs meanwhile; the images' directory when there is none.
    pub work_path: Option<PathBuf>,
    /// In CRIU's own terms.
    pub options: Fields,
    pub pre_dump: bool,
    /// Another checkpoint of the container, relative to this one, that holds what has not changed since.
    pub parent_path: Option<PathBuf>,
    pub lazy_pages: bool,
    /// For a container without the annotation.
    pub config_file: Option<PathBuf>,
}

/// What a running container has, to be looked at before it is dumped.
#[derive(Debug, Default)]
pub struct Seen {
    pub pid: i32,
    /// The place where each of [`externals`] is really mounted, as the container sees it; less those that are not.
    pub mounts: Vec<(CString, PathBuf)>,
    /// The inode numbers of its network and its pid namespace.
    pub namespaces: Vec<(Namespace, u64)>,
    /// `pipe:[INODE]` or `file[MOUNT:INODE]` for a stream that leads out of the container.
    pub streams: [Option<String>; 3],
}

/// Something of the host's in the container.
#[derive(Debug, PartialEq, Eq)]
pub struct External<'a> {
    /// The destination, clean.
    pub inside: &'a CStr,
    pub source: &'a CStr,
    /// A file that hides another.
    pub mask: bool,
}

/// All that init would bring in from the host.
pub fn externals(plan: &Plan) -> Result<Vec<External<'_>>> {
    let mut found = Vec::new();
    for step in &plan.steps {
        let external = match &step.action {
            Action::Mask { inside } => External { inside, source: c"/dev/null", mask: true },
            Action::Mount(mount) if !mount.copy_symlink => match mount.what {
                MountWhat::Tree { slot }
                | MountWhat::Device { slot, .. }
                | MountWhat::FilesystemOrTree { slot, .. } => {
                    External { inside: &mount.inside, source: source(plan, slot)?, mask: false }
                }
                _ => continue,
            },
            _ => continue,
        };
        let name = external.inside.to_string_lossy();
        // CVE-2026-115520: CRIU keeps name and place in one text, with this between them.
        ensure!(!name.contains("]:"), "config.json: {name:?} is no name for a mount that CRIU could tell");
        found.push(external);
    }
    Ok(found)
}

/// What is mounted from this slot.
pub fn source(plan: &Plan, slot: Slot) -> Result<&CStr> {
    let opened = plan.open.iter().find(|(filled, _)| *filled == slot);
    if let Some((_, Open::Tree { place, source, idmap, .. })) = opened {
        ensure!(idmap.is_none(), "config.json: {place}: CRIU does not restore the id mappings of a mount");
        return Ok(source);
    }
    let by_init = plan.steps.iter().find_map(|step| match &step.action {
        Action::OpenTree { slot: filled, source, .. } if *filled == slot => Some(source.as_c_str()),
        _ => None,
    });
    by_init.context("a mount of nothing")
}

/// Destinations that must be there before CRIU mounts on them, with the source that says what they must be; those of
/// filesystems are directories. What lies in another mount comes with that.
pub fn mount_points(plan: &Plan) -> Result<Vec<(&CStr, Option<&CStr>)>> {
    let mut points: Vec<(&CStr, Option<&CStr>)> = Vec::new();
    for step in &plan.steps {
        let Action::Mount(mount) = &step.action else { continue };
        let path = Path::new(OsStr::from_bytes(mount.inside.to_bytes()));
        let covered = |(above, _): &(&CStr, _)| {
            let above = Path::new(OsStr::from_bytes(above.to_bytes()));
            path.starts_with(above)
        };
        if mount.copy_symlink || points.iter().any(covered) {
            continue;
        }
        match mount.what {
            MountWhat::Tree { slot }
            | MountWhat::Device { slot, .. }
            | MountWhat::FilesystemOrTree { slot, .. } => {
                points.push((&mount.inside, Some(source(plan, slot)?)));
            }
            MountWhat::Filesystem { .. } => points.push((&mount.inside, None)),
            MountWhat::Remount { .. } => {}
        }
    }
    Ok(points)
}

/// Ask for a container's image, or with `pre_dump` for its memory alone.
pub fn dump(
    request: &request::Request,
    seen: &Seen,
    location: Option<&Location>,
    wishes: &Wishes,
) -> Result<Request> {
    check(request)?;
    let mut asked = Asked::default();
    asked.settle(request, wishes, DUMP_LOG)?;
    asked.set(opts::PID, Value::Number(seen.pid as u64));
    asked.set(opts::ORPHAN_PTS_MASTER, true);
    if let Some(freezer) = location.and_then(freezer) {
        asked.set(opts::FREEZE_CGROUP, Value::text(freezer));
    }
    if let Some(parent) = &wishes.parent_path {
        asked.set(opts::PARENT_IMG, Value::text(parent));
    }
    let mem_track = wishes.pre_dump || wishes.parent_path.is_some();
    if mem_track {
        asked.set(opts::TRACK_MEM, true);
    }
    let needs = needs(request, Features { mem_track, lazy_pages: wishes.lazy_pages });
    if wishes.pre_dump {
        return Ok(asked.finish(Kind::PreDump, needs));
    }
    for (name, place) in &seen.mounts {
        asked.options.push(criu::external_mount(place, OsStr::from_bytes(name.to_bytes())));
    }
    for (kind, key, criu_name) in EXTERNAL_NAMESPACES {
        let inode = seen.namespaces.iter().find(|(seen, _)| seen == kind);
        if let (Place::Joined(_), Some((_, inode))) = (request.place(*kind), inode) {
            asked.set(opts::EXTERNAL, Value::text(format!("{criu_name}[{inode}]:{key}")));
        }
    }
    for file in seen.streams.iter().flatten().filter(|name| name.starts_with("file[")) {
        asked.set(opts::EXTERNAL, Value::text(file));
    }
    Ok(asked.finish(Kind::Dump, needs))
}

/// Whether the container could have changed its mounts by itself (CAP_SYS_ADMIN, capabilities(7)).
pub fn may_mount(plan: &Plan) -> bool {
    const CAP_SYS_ADMIN: u32 = 21;
    let bounding = plan.steps.iter().find_map(|step| match &step.action {
        Action::Capabilities(sets) => Some(sets.bounding),
        _ => None,
    });
    bounding.is_none_or(|bounding| bounding & (1 << CAP_SYS_ADMIN) != 0)
}

/// A label that a restored process must have: the member that says so, the file below `/proc/PID` that tells, the name.
#[derive(Debug, PartialEq, Eq)]
pub struct Label {
    pub place: &'static str,
    pub file: &'static str,
    pub name: String,
}

/// Those of the configuration, unless the caller has asked for another one.
pub fn labels(plan: &Plan, request: &Request) -> Vec<Label> {
    let asked = request.options.iter().find_map(|(field, value)| match value {
        Value::Text(text) if *field == opts::LSM_PROFILE => Some(String::from_utf8_lossy(text)),
        _ => None,
    });
    let mut labels = Vec::new();
    for step in &plan.steps {
        let Action::Label { file, text } = &step.action else { continue };
        let (kind, place, current) = match file.as_c_str() {
            file if file == APPARMOR_EXEC => {
                ("apparmor:", "process.apparmorProfile", "attr/apparmor/current")
            }
            file if file == SELINUX_EXEC => ("selinux:", "process.selinuxLabel", "attr/current"),
            _ => continue,
        };
        let text = text.to_string_lossy();
        let configured = text.strip_prefix(APPARMOR_COMMAND).unwrap_or(&text);
        let name = asked.as_ref().and_then(|asked| asked.strip_prefix(kind)).unwrap_or(configured);
        labels.push(Label { place, file: current, name: name.to_string() });
    }
    labels
}

/// Lines that `/proc/PID/status` of a restored process must have, after the members that say so (proc_pid_status(5)).
pub fn bounds(plan: &Plan) -> impl Iterator<Item = (&'static str, &'static str)> {
    plan.steps.iter().filter_map(|step| match step.action {
        Action::NoNewPrivileges => Some(("process.noNewPrivileges", "NoNewPrivs:\t1")),
        Action::Seccomp { .. } => Some(("linux.seccomp", "Seccomp:\t2")),
        _ => None,
    })
}

/// A configuration whose container has a time namespace of its own, whatever was asked for.
pub fn with_time_namespace(config: &[u8]) -> Result<Vec<u8>> {
    let mut config: Json = serde_json::from_slice(config).context("config.json")?;
    let listed = config.pointer_mut("/linux/namespaces").and_then(Json::as_array_mut);
    let listed = listed.context("config.json: linux.namespaces: missing")?;
    if listed.iter().all(|namespace| namespace["type"] != "time") {
        listed.push(serde_json::json!({"type": "time"}));
    }
    serde_json::to_vec(&config).context("write config.json")
}

/// Slots of a restore's request that the runtime itself makes use of.
pub const ROOT: Slot = Slot(0);

/// Ask for a container to be restored with its root at `root`. `streams` are those of the image, which nobody vouches
/// for: they are names, and only what CRIU asks for by name is given to it.
pub fn restore(
    request: &request::Request,
    plan: &Plan,
    root: &Path,
    streams: &[Option<String>],
    wishes: &Wishes,
) -> Result<Request> {
    check(request)?;
    let mut asked = Asked::default();
    let tree = plan.open.iter().find_map(|(_, open)| match open {
        Open::Tree { place, source, .. } if place == "root.path" => Some((place.clone(), source.clone())),
        _ => None,
    });
    let (place, source) = tree.context("root.path: missing")?;
    asked.open(Open::Tree { place, source, recursive: true, follow: false, idmap: None });
    asked.settle(request, wishes, RESTORE_LOG)?;
    asked.set(opts::ROOT, Value::text(root));
    asked.set(opts::RST_SIBLING, true);
    asked.set(opts::EVASIVE_DEVICES, true);
    asked.set(opts::ORPHAN_PTS_MASTER, true);
    if let Some(group) = &plan.cgroup {
        // Never one for all: of a hierarchy in which the container has no group, CRIU would copy everybody's into it.
        let v1 = group.layout.v1.iter().map(|hierarchy| hierarchy.controllers.join(","));
        for controllers in v1.chain(group.layout.v2.iter().map(|_| String::new())) {
            asked.options.push(criu::cgroup_root(&controllers, Path::new("/").join(&group.path)));
        }
    }
    for external in externals(plan)? {
        let (inside, source) = (external.inside.to_bytes(), external.source.to_bytes());
        asked.options.push(criu::external_mount(OsStr::from_bytes(inside), OsStr::from_bytes(source)));
    }
    // In images of runc every mask has this name.
    asked.options.push(criu::external_mount("/dev/null", "/dev/null"));
    for kind in KINDS {
        let Place::Joined(path) = request.place(kind.namespace) else { continue };
        match EXTERNAL_NAMESPACES.iter().find(|(external, ..)| *external == kind.namespace) {
            Some((_, key, _)) => {
                let path = c_string(path.as_os_str().as_encoded_bytes())?;
                let slot = asked.open(Open::Namespace { kind: kind.namespace, path });
                asked.options.push(criu::inherit_fd(key, Value::Descriptor(slot)));
            }
            None => asked.options.push(criu::join_namespace(kind.name, path)),
        }
    }
    for (number, stream) in (0..3).zip(streams) {
        if let Some(name) = stream.as_deref().filter(|name| is_outside(name)) {
            // criu's own output is something else.
            let slot = asked.open(Open::Stream { number });
            asked.options.push(criu::inherit_fd(name, Value::Descriptor(slot)));
        }
    }
    Ok(asked.finish(Kind::Restore, needs(request, Features::default())))
}

/// Whether a stream's name is of something that whoever restores must bring along.
fn is_outside(stream: &str) -> bool {
    stream.starts_with("pipe:[") || stream.starts_with("file[")
}

/// Namespaces that CRIU leaves alone where the container has joined them, what they are called in an image (as runc and
/// crun call them), and CRIU's word for the kind.
const EXTERNAL_NAMESPACES: &[(Namespace, &str, &str)] =
    &[(Namespace::Network, "extRootNetNS", "net"), (Namespace::Pid, "extRootPidNS", "pid")];

fn check(request: &request::Request) -> Result<()> {
    ensure!(request.facts.authority != Authority::User, "criu needs root");
    ensure!(
        request.place(Namespace::Mount) == Place::New,
        "config.json: linux.namespaces: CRIU needs a mount namespace of the container's own"
    );
    if let Place::Joined(path) = request.place(Namespace::Cgroup) {
        bail!("config.json: linux.namespaces: CRIU does not join a cgroup namespace ({})", path.display());
    }
    Ok(())
}

fn needs(request: &request::Request, features: Features) -> Needs {
    let process = request.spec.process().as_ref();
    match process.and_then(|process| process.no_new_privileges()) {
        Some(true) => {
            Needs { version: KEEPS_NO_NEW_PRIVILEGES, place: Some("process.noNewPrivileges"), features }
        }
        _ => Needs { version: OLDEST, place: None, features },
    }
}

/// The directory whose freezer holds the whole container still.
fn freezer(location: &Location) -> Option<PathBuf> {
    let v1 =
        location.v1.iter().find(|place| place.hierarchy.controllers.iter().any(|name| name == "freezer"));
    let place = v1.or(location.v2.as_ref())?;
    Some(location.root.join(&place.hierarchy.directory).join(&place.path))
}

/// A request in the making.
#[derive(Default)]
struct Asked {
    options: Fields,
    open: Vec<(Slot, Open)>,
    log: PathBuf,
}

impl Asked {
    /// What a dump and a restore have in common.
    fn settle(&mut self, request: &request::Request, wishes: &Wishes, log: &str) -> Result<()> {
        let make = log == DUMP_LOG;
        let images = self.directory(&wishes.image_path, make)?;
        self.set(opts::IMAGES_DIR_FD, Value::Descriptor(images));
        if let Some(work) = &wishes.work_path {
            let work = self.directory(work, true)?;
            self.set(opts::WORK_DIR_FD, Value::Descriptor(work));
        }
        self.set(opts::LOG_LEVEL, Value::Number(LOG_LEVEL));
        self.set(opts::LOG_FILE, Value::text(log));
        self.log = wishes.work_path.as_ref().unwrap_or(&wishes.image_path).join(log);
        self.set(opts::NOTIFY_SCRIPTS, true);
        self.set(opts::MANAGE_CGROUPS, true);
        // Its options overrule ours.
        match annotations::get(request.spec, CRIU_CONFIG) {
            Some("") => {}
            Some(file) => self.set(opts::CONFIG_FILE, Value::text(file)),
            None => {
                if let Some(file) = &wishes.config_file {
                    self.set(opts::CONFIG_FILE, Value::text(file));
                }
            }
        }
        self.options.extend(wishes.options.iter().cloned());
        if wishes.lazy_pages {
            self.set(opts::LAZY_PAGES, true);
        }
        Ok(())
    }

    fn directory(&mut self, path: &Path, make: bool) -> Result<Slot> {
        Ok(self.open(Open::Directory { path: request::c_path(path, "path")?, make }))
    }

    fn open(&mut self, open: Open) -> Slot {
        let slot = Slot(self.open.len());
        self.open.push((slot, open));
        slot
    }

    fn set(&mut self, field: criu::Field, value: impl Into<Value>) {
        self.options.push((field, value.into()));
    }

    fn finish(self, kind: Kind, needs: Needs) -> Request {
        Request { kind, open: self.open, options: self.options, needs, log: self.log }
    }
}

#[cfg(test)]
mod tests;
