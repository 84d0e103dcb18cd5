//! Notices that a group's processes were killed for want of memory.
//!
//! Runs outside. Only says when to look: who waits polls the descriptor together with what else they wait for.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;

use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags};
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::uio::pread;
use nix::unistd::read;

use super::group::Group;

/// An announcement of the kernel's that somebody waits for.
pub struct OomWatch<'a> {
    group: &'a Group,
    source: Source,
}

enum Source {
    /// An eventfd that v1 signals; also when the group is removed.
    Eventfd(OwnedFd),
    /// `memory.events`, and how many processes it had counted.
    Counter(OwnedFd, u64),
}

/// v1's file that takes "eventfd, file to watch" (Documentation/admin-guide/cgroup-v1/memory.rst, section 10).
const REGISTER: &str = "cgroup.event_control";

impl<'a> OomWatch<'a> {
    pub fn v1(group: &'a Group) -> Result<OomWatch<'a>> {
        let path = || group.path().join("memory.oom_control");
        let control = group
            .open(Path::new("memory.oom_control"), OFlag::O_RDONLY)
            .with_context(|| format!("open {}", path().display()))?;
        let flags = EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK;
        let eventfd = OwnedFd::from(EventFd::from_flags(flags).context("make an eventfd")?);
        group.write(REGISTER, &format!("{} {}", eventfd.as_raw_fd(), control.as_raw_fd()))?;
        Ok(OomWatch { group, source: Source::Eventfd(eventfd) })
    }

    /// None where the group has no memory controller.
    pub fn v2(group: &'a Group) -> Result<Option<OomWatch<'a>>> {
        let path = || group.path().join("memory.events");
        let events = match group.open(Path::new("memory.events"), OFlag::O_RDONLY) {
            Err(Errno::ENOENT) => return Ok(None),
            events => events.with_context(|| format!("open {}", path().display()))?,
        };
        let count = kills(&events).with_context(|| format!("read {}", path().display()))?;
        Ok(Some(OomWatch { group, source: Source::Counter(events, count) }))
    }

    pub fn poll_fd(&self) -> PollFd<'_> {
        match &self.source {
            Source::Eventfd(eventfd) => PollFd::new(eventfd.as_fd(), PollFlags::POLLIN),
            Source::Counter(events, _) => PollFd::new(events.as_fd(), PollFlags::POLLPRI),
        }
    }

    /// Whether it happened since the last time somebody asked. Does not wait.
    pub fn happened(&mut self) -> Result<bool> {
        match &mut self.source {
            Source::Eventfd(eventfd) => match read(&*eventfd, &mut [0; 8]) {
                Err(Errno::EAGAIN) => Ok(false),
                signalled => signalled.map(|_| self.group.exists()).context("read an eventfd"),
            },
            Source::Counter(events, seen) => {
                let count = match kills(events) {
                    // The group has been removed.
                    Err(Errno::ENODEV) => return Ok(false),
                    count => count.context("read memory.events")?,
                };
                Ok(std::mem::replace(seen, count) < count)
            }
        }
    }
}

fn kills(events: &OwnedFd) -> Result<u64, Errno> {
    let mut bytes = [0; 1024];
    let length = pread(events, &mut bytes, 0)?;
    let text = std::str::from_utf8(&bytes[..length]).map_err(|_| Errno::EILSEQ)?;
    let count = text.lines().find_map(|line| line.strip_prefix("oom_kill ")?.parse().ok());
    count.ok_or(Errno::EINVAL)
}

#[cfg(test)]
mod tests {
    use crate::host::cgroup::tests::Fake;

    #[test]
    fn a_count_that_grew_is_told_once() {
        let events = |fake: Fake, count: u64| {
            fake.file("pods/web/memory.events", &format!("low 0\noom 7\noom_kill {count}\n"))
        };
        let fake = events(Fake::v2("memory").file("pods/web/cgroup.freeze", "0\n"), 2);
        let cgroup = fake.open();
        let mut watch = cgroup.watch_oom().unwrap().unwrap();
        assert!(!watch.happened().unwrap());
        let _fake = events(fake, 4);
        assert!(watch.happened().unwrap());
        assert!(!watch.happened().unwrap());
    }

    #[test]
    fn a_group_that_does_not_account_memory_has_no_notices() {
        let fake = Fake::v2("pids").file("pods/web/cgroup.freeze", "0\n");
        assert!(fake.open().watch_oom().unwrap().is_none());
    }
}
