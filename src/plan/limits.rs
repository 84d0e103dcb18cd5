//! Replaced on the cgroup branch.
#[derive(Debug, Default)]
pub struct Limits;
