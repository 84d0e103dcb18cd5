//! What this host is and what we may do on it, gathered once per command.
//!
//! Runs outside. The only file of `plan/` besides `bundle.rs` that looks at the world. Decides nothing.

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

/// One mounted cgroup hierarchy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hierarchy {
    /// `cpu,cpuacct`, `name=systemd`, ...; empty for the unified one.
    pub controllers: String,
    pub mount_point: String,
    /// The runtime's own group, as `/proc/self/cgroup` says.
    pub own: String,
}

#[derive(Clone, Debug)]
pub struct Facts {
    pub authority: Authority,
    pub euid: u32,
    pub egid: u32,
    /// Version and patch level, as in 6.18.
    pub kernel: (u32, u32),
    /// The capabilities that we can give away: our bounding set, bit n for capability n.
    pub grantable: u64,
    pub apparmor: bool,
    pub selinux: bool,
    pub hierarchies: Vec<Hierarchy>,
}

impl Facts {
    pub fn kernel_at_least(&self, version: u32, patch_level: u32) -> bool {
        self.kernel >= (version, patch_level)
    }
}
