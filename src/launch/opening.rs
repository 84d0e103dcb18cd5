//! Opens what a plan names, before the clone. Runs outside, with the caller's rights.

use std::ffi::CStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use anyhow::{Context, Result, bail};
use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::sys::stat::Mode;
use nix::unistd::mkdir;

use crate::host::{hooks, idmap};
use crate::plan::{IdMap, Namespace, Open, Plan, Slot};
use crate::sys;
use crate::sys::fd::current_directory;
use crate::sys::mount::{Attributes, Depth, attr, clone_tree, set_attributes};

/// The open descriptors of a plan, by slot.
#[derive(Debug)]
pub struct Slots(Vec<Option<OwnedFd>>);

impl Slots {
    pub fn open(plan: &Plan) -> Result<Slots> {
        Slots::filled(&plan.open, plan.slots)
    }

    /// `count` slots, of which those that are listed are filled.
    pub fn filled(open: &[(Slot, Open)], count: usize) -> Result<Slots> {
        let mut slots = Slots(Vec::new());
        slots.0.resize_with(count, || None);
        for (slot, wanted) in open {
            let fd = match wanted {
                Open::Tree { place, source, recursive, follow, idmap } => {
                    tree(source, *recursive, *follow, idmap.as_ref())
                        .with_context(|| format!("config.json: {place}"))?
                }
                Open::Namespace { kind, path } => namespace(*kind, path)?,
                Open::Pidfd { pid } => {
                    sys::process::open_pidfd(*pid).with_context(|| format!("open process {pid}"))?
                }
                Open::HookOutput { path } => hooks::open_output(path)?,
                Open::Stream { number } => sys::fd::inherited(*number)
                    .try_clone_to_owned()
                    .with_context(|| format!("copy descriptor {number}"))?,
                Open::Directory { path, make } => directory(path, *make)?,
            };
            slots.0[slot.0] = Some(fd);
        }
        Ok(slots)
    }

    pub fn get(&self, slot: Slot) -> Result<BorrowedFd<'_>> {
        self.0.get(slot.0).and_then(Option::as_ref).map(AsFd::as_fd).context("a slot that nothing fills")
    }

    /// For the child, which has its own copy of the table.
    pub fn into_inner(self) -> Vec<Option<OwnedFd>> {
        self.0
    }
}

fn tree(source: &CStr, recursive: bool, follow: bool, idmap: Option<&IdMap>) -> Result<OwnedFd> {
    let depth = if recursive { Depth::Recursive } else { Depth::One };
    let tree =
        clone_tree(current_directory(), source, depth, follow).with_context(|| format!("open {source:?}"))?;
    if let Some(map) = idmap {
        let user_namespace = idmap::user_namespace(&map.uids, &map.gids)?;
        let attributes = Attributes {
            set: attr::IDMAP,
            userns_fd: std::os::fd::AsRawFd::as_raw_fd(&user_namespace) as u64,
            ..Attributes::default()
        };
        let depth = if map.recursive { Depth::Recursive } else { Depth::One };
        match set_attributes(tree.as_fd(), &attributes, depth) {
            Err(Errno::EINVAL) => {
                bail!("map ids of {source:?}: its filesystem does not support idmapped mounts on this kernel")
            }
            result => result.with_context(|| format!("map ids of {source:?}"))?,
        }
    }
    Ok(tree)
}

fn directory(path: &CStr, make: bool) -> Result<OwnedFd> {
    if make {
        match mkdir(path, Mode::S_IRWXU) {
            Ok(()) | Err(Errno::EEXIST) => {}
            Err(error) => return Err(error).with_context(|| format!("make directory {path:?}")),
        }
    }
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    open(path, flags, Mode::empty()).with_context(|| format!("open directory {path:?}"))
}

/// A namespace file may be anything that a path leads to, so the kernel is asked what it is.
fn namespace(kind: Namespace, path: &CStr) -> Result<OwnedFd> {
    let file = open(path, OFlag::O_RDONLY | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC, Mode::empty())
        .with_context(|| format!("config.json: linux.namespaces: open {path:?}"))?;
    match sys::namespace::kind(file.as_fd()) {
        Ok(flag) if flag == kind.flag() => Ok(file),
        Ok(_) => {
            bail!("config.json: linux.namespaces: {path:?} is a namespace, but not a {} one", kind.name())
        }
        Err(_) => bail!("config.json: linux.namespaces: {path:?} is not a namespace"),
    }
}
