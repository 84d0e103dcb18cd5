//! What this host is and what we may do on it, gathered once per command.
//!
//! Runs outside. With `bundle.rs` the only file of `plan/` that looks at the world. Decides nothing.

#![allow(clippy::disallowed_methods, reason = "this is where plan/ looks")]

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use nix::errno::Errno;
use nix::sys::utsname::uname;
use nix::unistd::{getegid, geteuid};

/// The oldest Linux with everything that corten relies on: openat2, clone3 into a cgroup, setns by pidfd,
/// close_range, mount_setattr, idmapped mounts, cgroup.kill.
const OLDEST_KERNEL: (u32, u32) = (5, 14);

pub mod cgroup;
mod subids;

pub use subids::SubordinateIds;

use super::cgroup::CgroupLayout;
use crate::sys;

/// Where every distribution mounts the hierarchies.
const CGROUP_ROOT: &str = "/sys/fs/cgroup";

/// Whose rights the runtime has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Authority {
    /// Root in the initial user namespace.
    Root,
    /// Uid 0 of another user namespace: mounts, but no device nodes.
    NamespacedRoot,
    /// Somebody who must make a user namespace before anything else.
    User,
}

#[derive(Clone, Debug)]
pub struct Facts {
    pub authority: Authority,
    pub euid: u32,
    pub egid: u32,
    /// Version and patch level, as in 6.18.
    pub kernel: (u32, u32),
    /// Our own capabilities, bit n for capability n.
    pub permitted: u64,
    pub bounding: u64,
    /// Those that the kernel knows.
    pub supported: u64,
    /// What a user without root may map beside itself.
    pub subids: SubordinateIds,
    /// setgroups(2) is not denied in our user namespace.
    pub setgroups: bool,
    /// `SECCOMP_FILTER_FLAG_*`: distributions bring new ones to old kernels, so the version does not tell.
    pub filter_flags: u64,
    pub apparmor: bool,
    pub selinux: bool,
    pub cgroup: CgroupLayout,
    /// For a user without root, the group on v2 that we are in ourselves.
    pub own_group: PathBuf,
}

impl Facts {
    pub fn gather() -> Result<Facts> {
        let kernel = parse_release(&uname().context("uname")?.release().to_string_lossy())?;
        let (version, patch_level) = OLDEST_KERNEL;
        ensure!(
            kernel >= OLDEST_KERNEL,
            "corten needs Linux {version}.{patch_level} or later, and this is {}.{}",
            kernel.0,
            kernel.1
        );
        let (euid, egid) = (geteuid().as_raw(), getegid().as_raw());
        let initial = is_initial(&read("/proc/self/uid_map")?);
        let authority = match (euid, initial) {
            (0, true) => Authority::Root,
            (0, false) => Authority::NamespacedRoot,
            _ => Authority::User,
        };
        let (bounding, supported) = bounding_set()?;
        Ok(Facts {
            authority,
            euid,
            egid,
            kernel,
            permitted: sys::creds::capabilities().context("capget")?.permitted,
            bounding,
            supported,
            subids: match authority {
                Authority::User => SubordinateIds::of(euid),
                _ => SubordinateIds::default(),
            },
            setgroups: initial || read("/proc/self/setgroups")?.trim() == "allow",
            filter_flags: sys::seccomp::supported_flags(),
            apparmor: fs::read("/sys/module/apparmor/parameters/enabled").is_ok_and(|text| text == b"Y\n"),
            selinux: Path::new("/sys/fs/selinux/enforce").exists(),
            cgroup: cgroup::layout(Path::new(CGROUP_ROOT))?,
            own_group: match authority {
                Authority::User => cgroup::own_group()?,
                _ => PathBuf::new(),
            },
        })
    }

    pub fn kernel_at_least(&self, version: u32, patch_level: u32) -> bool {
        self.kernel >= (version, patch_level)
    }
}

fn read(path: &str) -> Result<String> {
    fs::read_to_string(path).with_context(|| path.to_string())
}

/// `6.18.2-amd64` → (6, 18)
fn parse_release(release: &str) -> Result<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(str::parse);
    match (numbers.next(), numbers.next()) {
        (Some(Ok(version)), Some(Ok(patch_level))) => Ok((version, patch_level)),
        _ => anyhow::bail!("{:?} is not a kernel release", release.trim()),
    }
}

/// A user namespace that maps every id to itself is the initial one, or as good.
fn is_initial(uid_map: &str) -> bool {
    uid_map.split_whitespace().eq(["0", "0", "4294967295"])
}

/// Our bounding set, and all that the kernel knows: it refuses to answer past the last one (capabilities(7)).
fn bounding_set() -> Result<(u64, u64)> {
    let (mut bounding, mut supported) = (0, 0);
    for capability in 0..u64::BITS {
        match sys::process::has_bounding(capability) {
            Ok(held) => {
                supported |= 1 << capability;
                bounding |= u64::from(held) << capability;
            }
            Err(Errno::EINVAL) => break,
            Err(error) => return Err(error).context("read the bounding set"),
        }
    }
    Ok((bounding, supported))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_host_has_facts() {
        let facts = Facts::gather().unwrap();
        assert!(facts.kernel >= OLDEST_KERNEL);
        assert_eq!(facts.bounding & !facts.supported, 0);
    }

    #[test]
    fn a_release_is_its_first_two_numbers() {
        assert_eq!(parse_release("6.18.2-amd64\n").unwrap(), (6, 18));
        assert_eq!(parse_release("5.14-rc1").unwrap(), (5, 14));
        parse_release("Linux").unwrap_err();
    }

    #[test]
    fn only_the_identity_map_is_the_initial_user_namespace() {
        assert!(is_initial("         0          0 4294967295\n"));
        assert!(!is_initial("         0       1000          1\n"));
        assert!(!is_initial("0 1000 1\n1 100000 65536\n"));
    }
}
