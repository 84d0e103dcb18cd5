//! Conducts a checkpoint: looks at a running container, and has criu write it down.
//!
//! Runs outside. A dump that fails leaves the container as it was; criu sees to that.

use std::collections::HashSet;
use std::ffi::{CStr, CString};
use std::fs;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::sys::stat::{Mode, SFlag, fstat};

use super::opening::Slots;
use crate::container::store::write_atomically;
use crate::host::criu::{Criu, Workplace};
use crate::plan::checkpoint::{self as planned, DESCRIPTORS, Seen};
use crate::plan::criu::{Kind, Notice, Request};
use crate::plan::{Namespace, Open, Plan, Slot};
use crate::sys::fd::write_once;
use crate::sys::path::open_in_root;

/// What the container of which `pid` is the first process really has.
pub fn look(plan: &Plan, pid: i32) -> Result<Seen> {
    let inode = |name: &str| {
        let path = format!("/proc/{pid}/ns/{name}");
        fs::metadata(&path).map(|file| file.ino()).with_context(|| format!("look at {path}"))
    };
    Ok(Seen {
        pid,
        mounts: mounts(plan, pid)?,
        namespaces: vec![(Namespace::Network, inode("net")?), (Namespace::Pid, inode("pid")?)],
        streams: streams(pid)?,
    })
}

/// Where a mount really is depends on links in the image. It is only a name: a container that meanwhile changes where it
/// leads to is at most refused by criu.
fn mounts(plan: &Plan, pid: i32) -> Result<Vec<(CString, PathBuf)>> {
    let root = root_of(pid)?;
    let mut found = Vec::new();
    for external in planned::externals(plan)? {
        let place = match open_in_root(root.as_fd(), external.inside, libc::O_PATH, 0) {
            Err(Errno::ENOENT | Errno::ENOTDIR | Errno::ELOOP) => continue,
            result => result.with_context(|| format!("look at {:?} in the container", external.inside))?,
        };
        let kind =
            SFlag::from_bits_truncate(fstat(&place).context("look at a mount")?.st_mode) & SFlag::S_IFMT;
        // A directory is masked by a filesystem, which is the container's own.
        if external.mask && kind == SFlag::S_IFDIR {
            continue;
        }
        let link = format!("/proc/self/fd/{}", place.as_raw_fd());
        let path = fs::read_link(&link).with_context(|| format!("read {link}"))?;
        found.push((external.inside.to_owned(), path));
    }
    Ok(found)
}

pub fn root_of(pid: i32) -> Result<OwnedFd> {
    let path = format!("/proc/{pid}/root");
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    open(path.as_str(), flags, Mode::empty()).with_context(|| format!("open {path}"))
}

/// Standard streams that lead out of the container: pipes, and files on mounts that it does not have.
fn streams(pid: i32) -> Result<[Option<String>; 3]> {
    let path = format!("/proc/{pid}/mountinfo");
    let mounts = fs::read_to_string(&path).with_context(|| format!("read {path}"))?;
    let own: HashSet<&str> = mounts.lines().filter_map(|line| line.split(' ').next()).collect();
    let mut streams = [const { None }; 3];
    for (number, stream) in streams.iter_mut().enumerate() {
        let path = format!("/proc/{pid}/fd/{number}");
        let (link, file) = match (fs::read_link(&path), fs::metadata(&path)) {
            (Ok(link), Ok(file)) => (link, file),
            // Closed.
            _ => continue,
        };
        let link = link.to_string_lossy();
        if link.starts_with("pipe:[") {
            *stream = Some(link.into_owned());
        } else if file.is_file() {
            let path = format!("/proc/{pid}/fdinfo/{number}");
            let info = fs::read_to_string(&path).with_context(|| format!("read {path}"))?;
            let mount = info.lines().find_map(|line| line.strip_prefix("mnt_id:")).unwrap_or_default().trim();
            let mount_id: u32 = mount.parse().with_context(|| format!("{path}: mnt_id"))?;
            *stream = (!own.contains(mount)).then(|| format!("file[{mount_id:x}:{:x}]", file.ino()));
        }
    }
    Ok(streams)
}

/// Have criu dump what `request` says. `status` is told, with a byte, when its pages can be fetched; `interrupt` becomes
/// readable when nobody is to fetch them any more.
pub fn dump(
    request: &Request,
    seen: &Seen,
    images: &Path,
    mut status: Option<OwnedFd>,
    interrupt: Option<BorrowedFd<'_>>,
) -> Result<()> {
    let slots = Slots::filled(&request.open, request.open.len())?;
    if request.kind == Kind::Dump {
        let text = serde_json::to_vec(&names(&seen.streams)).context("write a list")?;
        write_atomically(&images.join(DESCRIPTORS), &text, 0o600)?;
    }
    let kept = kept(&request.open, &slots)?;
    let bytes = request.encode(&|slot| number(&slots, slot))?;
    let criu = Criu::start(&Workplace { kept: &kept, ..Workplace::default() })?;
    let heed = |notice: &Notice, _| match status.take_if(|_| notice.script == "status-ready") {
        Some(status) => write_once(status.as_fd(), &[0]).context("--status-fd"),
        None => Ok(()),
    };
    let dumped = criu.ask(&bytes, request.kind, request.needs, interrupt, heed);
    criu.end(dumped, &request.log)
}

fn names(streams: &[Option<String>]) -> Vec<&str> {
    streams.iter().map(|stream| stream.as_deref().unwrap_or_default()).collect()
}

/// What criu is to find open: a directory may be reached in its own way.
pub fn kept<'a>(
    open: &'a [(Slot, Open)],
    slots: &'a Slots,
) -> Result<Vec<(BorrowedFd<'a>, Option<&'a CStr>)>> {
    let one = |(slot, open): &'a (Slot, Open)| {
        let path = match open {
            Open::Directory { path, .. } => Some(path.as_c_str()),
            _ => None,
        };
        Ok((slots.get(*slot)?, path))
    };
    open.iter().map(one).collect()
}

pub fn number(slots: &Slots, slot: Slot) -> Result<i32> {
    slots.get(slot).map(|fd: BorrowedFd<'_>| fd.as_raw_fd())
}
