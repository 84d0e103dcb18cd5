//! The conversation between the runtime and its child: fixed messages on one `SOCK_SEQPACKET` pair.
//!
//! The child says *where* it is (a step's number), the parent, who has the plan, says *what* that means.
//! Lock-step: after [`Report::Reached`] the child waits for the parent's leave. It uses read(2) and write(2) alone,
//! since it may sit under the container's seccomp filter, and does not allocate to speak.

use std::os::fd::{BorrowedFd, OwnedFd, RawFd};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockType, socketpair};

use crate::sys::process::Ended;
use crate::sys::{self, fd::write_once};

/// What the child tells the parent.
#[derive(Debug, PartialEq, Eq)]
pub enum Report {
    /// Standing at this step, and waiting.
    Reached { step: u32 },
    /// This step is impossible; `note` is the kernel's or the file's own word on it, if there is one.
    Failed { step: u32, errno: i32, note: Note },
    /// The n-th hook of this step did not succeed, and `said` what it printed last.
    HookFailed { step: u32, hook: u32, how: HookEnd, said: Note },
    /// With a handle on the courier that will bring a seccomp listener (`init/confine.rs`). Waits for nothing.
    Courier { step: u32 },
    /// With the seccomp listener.
    Listener { step: u32 },
    /// A stand-in has cloned init.
    Born { pid: i32 },
}

/// Why a hook did not succeed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HookEnd {
    Ended(Ended),
    TimedOut,
    NotStarted(Errno),
}

/// A short text that needs no allocation.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Note {
    bytes: [u8; Note::CAPACITY],
    length: usize,
}

impl Note {
    pub const CAPACITY: usize = 240;
    pub const EMPTY: Note = Note { bytes: [0; Note::CAPACITY], length: 0 };

    /// As much of `text` as fits.
    pub fn new(text: &[u8]) -> Note {
        let mut note = Note::EMPTY;
        note.length = text.len().min(Note::CAPACITY);
        note.bytes[..note.length].copy_from_slice(&text[..note.length]);
        note
    }

    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.length]
    }
}

impl std::fmt::Debug for Note {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        String::from_utf8_lossy(self.as_bytes()).fmt(f)
    }
}

/// A message as it travels: four numbers in the machine's order, then the note.
const HEADER: usize = 16;
const MESSAGE: usize = HEADER + Note::CAPACITY;

mod kind {
    pub const REACHED: u32 = 1;
    pub const FAILED: u32 = 2;
    pub const HOOK_EXITED: u32 = 3;
    pub const HOOK_SIGNALLED: u32 = 4;
    pub const HOOK_TIMED_OUT: u32 = 5;
    pub const HOOK_NOT_STARTED: u32 = 6;
    pub const LISTENER: u32 = 7;
    pub const BORN: u32 = 8;
    pub const COURIER: u32 = 9;
}

impl Report {
    fn encode(&self, buffer: &mut [u8; MESSAGE]) -> usize {
        let (kind, step, value, hook, note) = match *self {
            Report::Reached { step } => (kind::REACHED, step, 0, 0, Note::EMPTY),
            Report::Failed { step, errno, note } => (kind::FAILED, step, errno, 0, note),
            Report::HookFailed { step, hook, how, said } => {
                let (kind, value) = match how {
                    HookEnd::Ended(Ended::Exited(status)) => (kind::HOOK_EXITED, status),
                    HookEnd::Ended(Ended::Signalled(signal)) => (kind::HOOK_SIGNALLED, signal),
                    HookEnd::TimedOut => (kind::HOOK_TIMED_OUT, 0),
                    HookEnd::NotStarted(errno) => (kind::HOOK_NOT_STARTED, errno as i32),
                };
                (kind, step, value, hook, said)
            }
            Report::Courier { step } => (kind::COURIER, step, 0, 0, Note::EMPTY),
            Report::Listener { step } => (kind::LISTENER, step, 0, 0, Note::EMPTY),
            Report::Born { pid } => (kind::BORN, 0, pid, 0, Note::EMPTY),
        };
        buffer[0..4].copy_from_slice(&kind.to_ne_bytes());
        buffer[4..8].copy_from_slice(&step.to_ne_bytes());
        buffer[8..12].copy_from_slice(&value.to_ne_bytes());
        buffer[12..16].copy_from_slice(&hook.to_ne_bytes());
        buffer[HEADER..HEADER + note.length].copy_from_slice(note.as_bytes());
        HEADER + note.length
    }

    /// A message that is not one of ours is EBADMSG.
    pub fn decode(message: &[u8]) -> Result<Report, Errno> {
        let number = |index: usize| {
            let bytes = message.get(index * 4..index * 4 + 4).and_then(|bytes| bytes.try_into().ok());
            bytes.map(u32::from_ne_bytes).ok_or(Errno::EBADMSG)
        };
        let (kind, step, value, hook) = (number(0)?, number(1)?, number(2)? as i32, number(3)?);
        let how = match kind {
            kind::REACHED => return Ok(Report::Reached { step }),
            kind::FAILED => {
                return Ok(Report::Failed { step, errno: value, note: Note::new(&message[HEADER..]) });
            }
            kind::COURIER => return Ok(Report::Courier { step }),
            kind::LISTENER => return Ok(Report::Listener { step }),
            kind::BORN => return Ok(Report::Born { pid: value }),
            kind::HOOK_EXITED => HookEnd::Ended(Ended::Exited(value)),
            kind::HOOK_SIGNALLED => HookEnd::Ended(Ended::Signalled(value)),
            kind::HOOK_TIMED_OUT => HookEnd::TimedOut,
            kind::HOOK_NOT_STARTED => HookEnd::NotStarted(Errno::from_raw(value)),
            _ => return Err(Errno::EBADMSG),
        };
        Ok(Report::HookFailed { step, hook, how, said: Note::new(&message[HEADER..]) })
    }
}

/// Send a report on anything that takes it whole: the conversation's socket, or the start gate's pipe.
pub fn send(to: BorrowedFd<'_>, report: &Report) -> Result<(), Errno> {
    let mut buffer = [0; MESSAGE];
    let length = report.encode(&mut buffer);
    write_once(to, &buffer[..length])
}

/// Send a report on the conversation with descriptors, by number.
pub fn send_with_fds(to: BorrowedFd<'_>, report: &Report, fds: &[RawFd]) -> Result<(), Errno> {
    let mut buffer = [0; MESSAGE];
    let length = report.encode(&mut buffer);
    sys::fd::send_with_fds(to, &buffer[..length], fds)
}

/// The next report; `None` when the other end is closed, by death or by execve(2).
pub fn receive(from: BorrowedFd<'_>) -> Result<Option<Report>, Errno> {
    let mut buffer = [0; MESSAGE];
    match retrying(&mut buffer, |buffer| nix::unistd::read(from, buffer))? {
        0 => Ok(None),
        length => Report::decode(&buffer[..length]).map(Some),
    }
}

/// As [`receive`], with the descriptors that came along; for the conversation, which is a socket.
pub fn receive_with_fds(from: BorrowedFd<'_>) -> Result<Option<(Report, Vec<OwnedFd>)>, Errno> {
    let mut buffer = [0; MESSAGE];
    let receive = |buffer: &mut [u8]| sys::fd::receive_fds(from, buffer, MsgFlags::empty());
    match retrying(&mut buffer, receive)? {
        (0, _) => Ok(None),
        (length, fds) => Report::decode(&buffer[..length]).map(|report| Some((report, fds))),
    }
}

/// What a runtime says that was told to end before the program has begun.
pub const INTERRUPTED: &str = "interrupted by a signal before the program began";

/// Until something can be received; or one of `others`, its number, becomes readable and nothing was received by then.
pub fn wait_unless(from: BorrowedFd<'_>, others: &[BorrowedFd<'_>]) -> Result<Option<usize>, Errno> {
    if others.is_empty() {
        return Ok(None);
    }
    let mut fds: Vec<_> = [from].iter().chain(others).map(|fd| PollFd::new(*fd, PollFlags::POLLIN)).collect();
    let mut timeout = PollTimeout::NONE;
    loop {
        match poll(&mut fds, timeout) {
            Err(Errno::EINTR) => continue,
            result => result?,
        };
        let is_ready = |fd: &PollFd<'_>| fd.revents().is_some_and(|events| !events.is_empty());
        match fds.iter().position(is_ready) {
            // It may have spoken after it was looked at, and before the other was.
            Some(1..) if timeout == PollTimeout::NONE => timeout = PollTimeout::ZERO,
            first => return Ok(first.and_then(|first| first.checked_sub(1))),
        }
    }
}

/// Let the child go on.
pub fn grant(to: BorrowedFd<'_>) -> Result<(), Errno> {
    write_once(to, b"+")
}

/// Wait for the parent's leave; ECONNRESET when the parent is gone.
pub fn await_grant(from: BorrowedFd<'_>) -> Result<(), Errno> {
    match retrying(&mut [0; 1], |buffer| nix::unistd::read(from, buffer))? {
        0 => Err(Errno::ECONNRESET),
        _ => Ok(()),
    }
}

fn retrying<T: Default>(
    buffer: &mut [u8],
    receive: impl Fn(&mut [u8]) -> Result<T, Errno>,
) -> Result<T, Errno> {
    loop {
        match receive(buffer) {
            Err(Errno::EINTR) => {}
            // A peer that died with our words unread resets the connection; it is as gone as one that closed it.
            Err(Errno::ECONNRESET) => return Ok(T::default()),
            result => return result,
        }
    }
}

/// The two ends of a conversation: the parent's and the child's.
pub fn pair() -> Result<(OwnedFd, OwnedFd), Errno> {
    socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn every_report_survives_the_wire() {
        let reports = [
            Report::Reached { step: 7 },
            Report::Failed { step: 3, errno: Errno::EPERM as i32, note: Note::new(b"unknown parameter") },
            Report::Failed { step: 3, errno: 2, note: Note::EMPTY },
            Report::HookFailed {
                step: 1,
                hook: 2,
                how: HookEnd::Ended(Ended::Exited(3)),
                said: Note::new(b"no"),
            },
            Report::HookFailed {
                step: 1,
                hook: 2,
                how: HookEnd::Ended(Ended::Signalled(9)),
                said: Note::EMPTY,
            },
            Report::HookFailed { step: 1, hook: 2, how: HookEnd::TimedOut, said: Note::EMPTY },
            Report::HookFailed {
                step: 1,
                hook: 2,
                how: HookEnd::NotStarted(Errno::ENOENT),
                said: Note::EMPTY,
            },
            Report::Courier { step: 40 },
            Report::Listener { step: 40 },
            Report::Born { pid: 1234 },
        ];
        let (parent, child) = pair().unwrap();
        for report in reports {
            send(child.as_fd(), &report).unwrap();
            assert_eq!(receive(parent.as_fd()).unwrap(), Some(report));
        }
        drop(child);
        assert_eq!(receive(parent.as_fd()).unwrap(), None);
    }

    #[test]
    fn a_child_whose_parent_is_gone_is_not_let_on() {
        let (parent, child) = pair().unwrap();
        drop(parent);
        assert_eq!(await_grant(child.as_fd()), Err(Errno::ECONNRESET));
    }

    #[test]
    fn words_are_heard_before_the_end_of_who_could_have_brought_them() {
        let (parent, child) = pair().unwrap();
        let [ended, lives] = [(); 2].map(|()| pair().unwrap());
        drop(ended.1);
        let others = [lives.0.as_fd(), ended.0.as_fd()];
        assert_eq!(wait_unless(parent.as_fd(), &others), Ok(Some(1)));
        send(child.as_fd(), &Report::Reached { step: 1 }).unwrap();
        assert_eq!(wait_unless(parent.as_fd(), &others), Ok(None));
        assert_eq!(wait_unless(parent.as_fd(), &[]), Ok(None));
    }

    #[test]
    fn noise_is_not_a_report() {
        assert_eq!(Report::decode(b"short"), Err(Errno::EBADMSG));
        assert_eq!(Report::decode(&[0xff; 64]), Err(Errno::EBADMSG));
    }

    #[test]
    fn a_long_note_is_cut() {
        assert_eq!(Note::new(&[b'x'; 1000]).as_bytes().len(), Note::CAPACITY);
    }
}
