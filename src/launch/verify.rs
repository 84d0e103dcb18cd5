//! Holds a restored container's mounts, labels and bounds against its plan, while its processes stand still.
//!
//! Runs outside. An image is as trusted as whoever made it, but a root filesystem is not, and CRIU mounts by path: what
//! the configuration takes from the host must be where it says, hidden what it hides, and read-only what it says is
//! (CVE-2024-8676, CVE-2026-119101). What a container may mount, it may have mounted otherwise since.

use std::ffi::{CStr, OsStr};
use std::fs;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use nix::errno::Errno;
use nix::sys::stat::{SFlag, fstat, stat};
use nix::sys::statvfs::{FsFlags, fstatvfs};

use super::checkpoint::root_of;
use crate::plan::checkpoint::{self as planned, Label};
use crate::plan::criu::Request;
use crate::plan::{Action, Mount, MountWhat, Plan};
use crate::sys::fd::is_null_device;
use crate::sys::path::open_in_root;

pub fn mounts(plan: &Plan, pid: i32) -> Result<()> {
    if planned::may_mount(plan) {
        return Ok(());
    }
    let root = root_of(pid)?;
    for (number, step) in plan.steps.iter().enumerate() {
        match &step.action {
            Action::Mount(mount) if !is_covered(plan, number, mount) => check_source(plan, &root, mount)?,
            Action::ReadOnlyPath { inside } => {
                if let Some(place) = place(&root, inside)? {
                    check_read_only(&place, inside)?;
                }
            }
            Action::Mask { inside } => {
                if let Some(place) = place(&root, inside)? {
                    check_mask(&place, inside)?;
                }
            }
            Action::ReadOnlyRoot => check_read_only(&root, c"/")?,
            _ => {}
        }
    }
    Ok(())
}

/// A criu without support for a security module leaves its own label to what it restores, which may confine nothing. And
/// an image may name any.
pub fn labels(plan: &Plan, request: &Request, pid: i32) -> Result<()> {
    for Label { place, file, name } in planned::labels(plan, request) {
        let path = format!("/proc/{pid}/{file}");
        let current = fs::read_to_string(&path).with_context(|| format!("read {path}"))?;
        let current = current.trim_end_matches(['\0', '\n']);
        // AppArmor's comes with its mode.
        let found = current.split_once(" (").map_or(current, |(found, _)| found);
        ensure!(
            found == name,
            "{place}: criu has restored the process as {found:?}, and not as {name:?} (does this criu support it?)"
        );
    }
    Ok(())
}

/// An image may be of a process that was freer, and a criu may forget what bound it.
pub fn bounds(plan: &Plan, pid: i32) -> Result<()> {
    let path = format!("/proc/{pid}/status");
    let status = fs::read_to_string(&path).with_context(|| format!("read {path}"))?;
    for (place, bound) in planned::bounds(plan) {
        ensure!(
            status.lines().any(|line| line == bound),
            "{place}: the checkpoint, or criu, has restored the process without it"
        );
    }
    Ok(())
}

/// `None` for what is not there.
fn place(root: &OwnedFd, inside: &CStr) -> Result<Option<OwnedFd>> {
    match open_in_root(root.as_fd(), inside, libc::O_PATH, 0) {
        Err(Errno::ENOENT | Errno::ENOTDIR) => Ok(None),
        place => place.map(Some).with_context(|| format!("look at {inside:?} in the restored container")),
    }
}

/// Whether a later mount lies on this one, or on what it lies in.
fn is_covered(plan: &Plan, number: usize, mount: &Mount) -> bool {
    let path = |inside: &'_ CStr| Path::new(OsStr::from_bytes(inside.to_bytes())).to_path_buf();
    plan.steps[number + 1..].iter().any(|later| match &later.action {
        Action::Mount(later) if !matches!(later.what, MountWhat::Remount { .. }) => {
            path(&mount.inside).starts_with(path(&later.inside))
        }
        _ => false,
    })
}

fn check_source(plan: &Plan, root: &OwnedFd, mount: &Mount) -> Result<()> {
    let (MountWhat::Tree { slot } | MountWhat::Device { slot, .. }) = mount.what else { return Ok(()) };
    if mount.copy_symlink {
        return Ok(());
    }
    let (source, inside) = (planned::source(plan, slot)?, &mount.inside);
    let Some(place) = place(root, inside)? else { bail!("the checkpoint has nothing on {inside:?}") };
    let found = fstat(&place).with_context(|| format!("look at {inside:?}"))?;
    let wanted = stat(source).with_context(|| format!("look at {source:?}"))?;
    ensure!(
        (found.st_dev, found.st_ino) == (wanted.st_dev, wanted.st_ino),
        "the checkpoint has something other than {source:?} on {inside:?}"
    );
    match (mount.set | mount.set_recursive) & libc::MOUNT_ATTR_RDONLY {
        0 => Ok(()),
        _ => check_read_only(&place, inside),
    }
}

fn check_read_only(place: &OwnedFd, inside: &CStr) -> Result<()> {
    let flags = fstatvfs(place).with_context(|| format!("look at {inside:?}"))?.flags();
    ensure!(flags.contains(FsFlags::ST_RDONLY), "the checkpoint has {inside:?} writable");
    Ok(())
}

/// A directory is hidden by an empty filesystem that is read-only, anything else by the null device.
fn check_mask(place: &OwnedFd, inside: &CStr) -> Result<()> {
    let context = || format!("look at {inside:?}");
    let found = fstat(place).with_context(context)?;
    let is_hidden = if SFlag::from_bits_truncate(found.st_mode) & SFlag::S_IFMT == SFlag::S_IFDIR {
        let entries = fs::read_dir(format!("/proc/self/fd/{}", place.as_raw_fd())).with_context(context)?;
        let is_read_only = fstatvfs(place).with_context(context)?.flags().contains(FsFlags::ST_RDONLY);
        is_read_only && entries.count() == 0
    } else {
        is_null_device(&found)
    };
    ensure!(is_hidden, "the checkpoint does not hide {inside:?}");
    Ok(())
}
