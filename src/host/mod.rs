//! The parent's hands: control groups, id maps, hooks, network devices. Runs outside.

pub mod cgroup;
pub mod hooks;
pub mod idmap;
pub mod netdev;
pub mod oom;
pub mod resctrl;

use std::ffi::CString;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::mount::{MntFlags, umount2};

/// The number of the mount that a path leads to; none when there is no such path.
pub fn mount_id(path: &Path) -> Result<Option<u64>> {
    let text = CString::new(path.as_os_str().as_bytes()).with_context(|| format!("{path:?}"))?;
    match crate::sys::mount::mount_id(&text) {
        Err(Errno::ENOENT) => Ok(None),
        result => result.map(Some).with_context(|| format!("look at {path:?}")),
    }
}

/// Take off a container's root from the host, where the container had no mount namespace of its own.
pub fn unmount(path: &Path) -> Result<()> {
    match umount2(path, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW) {
        // Not mounted, or not there any more.
        Ok(()) | Err(Errno::EINVAL | Errno::ENOENT) => Ok(()),
        Err(error) => Err(error).with_context(|| format!("unmount {path:?}")),
    }
}
