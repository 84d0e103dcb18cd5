//! The out-of-memory killer's preference. Runs outside, since only the host's root may lower it.

use std::ffi::CString;

use anyhow::{Context, Result};

use crate::sys::procfs::Procfs;

/// Write `/proc/PID/oom_score_adj` (proc(5)), -1000 to 1000.
pub fn set_score(pid: i32, score: i32) -> Result<()> {
    let intent = || format!("write {score} to /proc/{pid}/oom_score_adj");
    let path = CString::new(format!("{pid}/oom_score_adj")).with_context(intent)?;
    Procfs::open().with_context(intent)?.write(&path, score.to_string().as_bytes()).with_context(intent)
}
