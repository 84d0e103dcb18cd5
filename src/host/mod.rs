//! The parent's hands: control groups, id maps, hooks. Runs outside.

pub mod cgroup;
pub mod hooks;
pub mod idmap;
pub mod oom;
