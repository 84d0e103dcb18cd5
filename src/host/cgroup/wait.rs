//! Bounded waiting: for the kernel to freeze a group, for dying processes to leave one.
//!
//! Runs outside. Where the kernel announces a change (v2's `cgroup.events`) we sleep until it does; v1 announces
//! nothing, and is asked again after short, growing pauses.

use std::os::fd::{AsFd, OwnedFd};
use std::thread::sleep;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

const FIRST_PAUSE: Duration = Duration::from_micros(100);
const LONGEST_PAUSE: Duration = Duration::from_millis(10);

pub struct Deadline(Instant);

/// Growing pauses until a deadline.
pub struct Pause<'a> {
    deadline: &'a Deadline,
    next: Duration,
}

impl Deadline {
    pub fn after(patience: Duration) -> Deadline {
        Deadline(Instant::now() + patience)
    }

    pub fn left(&self) -> Duration {
        self.0.saturating_duration_since(Instant::now())
    }

    pub fn pause(&self) -> Pause<'_> {
        Pause { deadline: self, next: FIRST_PAUSE }
    }

    /// Sleep until the kernel announces that the file has changed since it was read; false at the deadline.
    pub fn changed(&self, file: &OwnedFd) -> Result<bool, Errno> {
        // Rounded up: a fraction of a millisecond is not the end.
        let left = PollTimeout::try_from(self.left() + Duration::from_millis(1)).unwrap_or(PollTimeout::MAX);
        match poll(&mut [PollFd::new(file.as_fd(), PollFlags::POLLPRI)], left) {
            Ok(0) => Ok(false),
            Ok(_) | Err(Errno::EINTR) => Ok(!self.left().is_zero()),
            Err(errno) => Err(errno),
        }
    }
}

impl Pause<'_> {
    /// False when the deadline has passed.
    pub fn take(&mut self) -> bool {
        let left = self.deadline.left();
        sleep(self.next.min(left));
        self.next = (2 * self.next).min(LONGEST_PAUSE);
        !left.is_zero()
    }
}
