//! The parent's hands: control groups, id maps, hooks, network devices, criu, words for a service manager. Runs outside.

pub mod bus;
pub mod cgroup;
pub mod criu;
pub mod hooks;
pub mod idmap;
pub mod netdev;
pub mod notify;
pub mod oom;
pub mod resctrl;
pub mod systemd;

use std::path::Path;

use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::mount::{MntFlags, umount2};

/// Take off a container's root from the host, where the container had no mount namespace of its own.
pub fn unmount(path: &Path) -> Result<()> {
    match umount2(path, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW) {
        // Not mounted, or not there any more.
        Ok(()) | Err(Errno::EINVAL | Errno::ENOENT) => Ok(()),
        Err(error) => Err(error).with_context(|| format!("unmount {path:?}")),
    }
}
