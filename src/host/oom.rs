//! The out-of-memory killer's preference. Runs outside, where the host's procfs is.

use std::ffi::CString;

use anyhow::{Context, Result};
use nix::errno::Errno;

use crate::sys::procfs::Procfs;

/// Write `/proc/PID/oom_score_adj` (proc(5)), -1000 to 1000.
pub fn set_score(pid: i32, score: i32) -> Result<()> {
    let text = score.to_string();
    write(&pid.to_string(), text.as_bytes())
}

/// Our own score, until it is dropped: a child that is born meanwhile has it too. The other way for who may not write
/// to a process that nobody may look into.
pub struct Lent {
    own: Vec<u8>,
}

impl Lent {
    /// A score that may not be lowered stays as it is.
    pub fn new(score: i32) -> Result<Option<Lent>> {
        let own = std::fs::read("/proc/self/oom_score_adj").context("read /proc/self/oom_score_adj")?;
        match write(&std::process::id().to_string(), score.to_string().as_bytes()) {
            Err(error) if error.downcast_ref() == Some(&Errno::EACCES) => Ok(None),
            result => result.map(|()| Some(Lent { own })),
        }
    }

    pub fn end(self) -> Result<()> {
        write(&std::process::id().to_string(), self.own.trim_ascii())
    }
}

fn write(process: &str, score: &[u8]) -> Result<()> {
    let intent = || format!("write {} to /proc/{process}/oom_score_adj", String::from_utf8_lossy(score));
    let path = CString::new(format!("{process}/oom_score_adj")).with_context(intent)?;
    Procfs::open().with_context(intent)?.write(&path, score).with_context(intent)
}
