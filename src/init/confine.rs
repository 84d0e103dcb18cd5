//! Labels and filters. Runs in every process of a container.

use std::ffi::CStr;
use std::os::fd::{AsFd, AsRawFd};

use super::{Init, Outcome};
use crate::plan::seccomp::Filter;
use crate::sys;
use crate::wire::{self, Report};

impl Init<'_> {
    /// `file` is relative to `/proc`. Through the procfs that the parent opened: the container's may be anything (CVE-2025-52881).
    pub fn label(&self, file: &CStr, text: &CStr) -> Outcome {
        let file = self.procfs()?.own_file(file, libc::O_WRONLY)?;
        Ok(sys::fd::write_once(file.as_fd(), text.to_bytes())?)
    }

    pub fn seccomp(&self, step: u32, filter: &Filter) -> Outcome {
        if let Some(listener) = sys::seccomp::load(&filter.program, filter.flags)? {
            let conversation = self.given.conversation.as_fd();
            wire::send(conversation, &Report::Listener { step, fd: listener.as_raw_fd() })?;
            wire::await_grant(conversation)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use crate::plan::confinement::{SELINUX_EXEC, SELINUX_KEYS};
    use crate::sys::procfs::Procfs;

    #[test]
    fn a_label_is_written_to_a_file_that_there_is() {
        let procfs = Procfs::open().unwrap();
        // A kernel without security modules has no such directory.
        if procfs.own_file(c"self/attr", libc::O_PATH).is_ok() {
            for file in [SELINUX_EXEC, SELINUX_KEYS] {
                procfs.own_file(file, libc::O_PATH).unwrap();
            }
        }
    }
}
