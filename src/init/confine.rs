//! Labels and filters. Runs in every process of a container.

use std::ffi::CStr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, IntoRawFd};

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::unistd::{Pid, getpid, getppid, pipe2};

use super::{Init, Outcome};
use crate::plan::seccomp::Filter;
use crate::sys;
use crate::sys::fd::{inherited, write_once};
use crate::sys::process::{Side, clone_process, exit_now, forget_ended_children, set_parent_death_signal};
use crate::wire::{self, Report};

impl Init<'_> {
    /// `file` is relative to `/proc`. Through the procfs that the parent opened: the container's may be anything (CVE-2025-52881).
    pub fn label(&self, file: &CStr, text: &CStr) -> Outcome {
        let file = self.procfs()?.own_file(file, libc::O_WRONLY)?;
        Ok(write_once(file.as_fd(), text.to_bytes())?)
    }

    /// A listener goes to the parent, which may be nobody who can fetch it, by a process that the filter does not hold:
    /// a courier that shares our descriptors. Under the filter we need no more than write(2) and read(2).
    pub fn seccomp(&self, step: u32, filter: &Filter) -> Outcome {
        if filter.listener.is_none() {
            return Ok(sys::seccomp::load(&filter.program, filter.flags).map(drop)?);
        }
        let conversation = self.given.conversation.as_fd();
        let (told, tell) = pipe2(OFlag::O_CLOEXEC)?;
        // Nobody waits for it: we may not be allowed to.
        forget_ended_children()?;
        let sender = getpid();
        let courier = match clone_process(libc::CLONE_FILES as u64, None)? {
            Side::Child => {
                // Only a parent that is still there can hear of it.
                let _ = carry(conversation, step, told.as_fd(), sender);
                exit_now(0)
            }
            Side::Parent { pidfd, .. } => pidfd,
        };
        // Whoever waits for the listener has to hear of its end, and we can look no more.
        wire::send_with_fds(conversation, &Report::Courier { step }, &[courier.as_raw_fd()])?;
        drop(courier);
        let listener = sys::seccomp::load(&filter.program, filter.flags)?.ok_or(Errno::EBADF)?;
        let fds = [listener, told, tell].map(IntoRawFd::into_raw_fd);
        write_once(inherited(fds[2]), fds.map(i32::to_ne_bytes).as_flattened())?;
        Ok(wire::await_grant(conversation)?)
    }
}

/// The courier's life. It closes what it was told of, for both: the sender may not be allowed to, and must not keep a
/// listener that guests could take from it.
fn carry(conversation: BorrowedFd<'_>, step: u32, told: BorrowedFd<'_>, sender: Pid) -> Result<(), Errno> {
    set_parent_death_signal(libc::SIGKILL)?;
    if getppid() != sender {
        return Err(Errno::ESRCH);
    }
    let mut numbers = [[0; 4]; 3];
    if nix::unistd::read(told, numbers.as_flattened_mut())? < size_of_val(&numbers) {
        return Err(Errno::EBADMSG);
    }
    let fds = numbers.map(i32::from_ne_bytes);
    wire::send_with_fds(conversation, &Report::Listener { step }, &fds[..1])?;
    fds.into_iter().try_for_each(nix::unistd::close)
}

#[cfg(test)]
mod tests {
    use nix::errno::Errno;

    use crate::plan::confinement::{SELINUX_EXEC, SELINUX_KEYS};
    use crate::plan::tests::absence::skip;
    use crate::sys::procfs::Procfs;

    #[test]
    fn the_files_that_labels_are_written_to_are_there() {
        let procfs = Procfs::open().unwrap();
        if let Err(Errno::ENOENT) = procfs.own_file(c"self/attr", libc::O_PATH) {
            return skip("this kernel has no security modules");
        }
        for file in [SELINUX_EXEC, SELINUX_KEYS] {
            procfs.own_file(file, libc::O_PATH).unwrap();
        }
    }
}
