//! The start gate, from outside: two FIFOs between `start` and an init that waits.
//!
//! Init holds both ends of both (so neither ever blocks or ends by itself) until execve(2) closes them. That makes
//! their readers' and writers' presence the answer to two questions: is an init waiting, and did execve succeed.

use std::fs::{File, OpenOptions};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use anyhow::{Context, Result, bail};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, poll};
use nix::sys::stat::Mode;
use nix::unistd::mkfifo;

use crate::wire::{self, Report};

const GO: &str = "go";
const OUTCOME: &str = "outcome";

/// Make both FIFOs, and open them as init holds them.
pub fn make(room: &Path) -> Result<(OwnedFd, OwnedFd)> {
    let open = |name: &str| -> Result<OwnedFd> {
        let path = room.join(name);
        mkfifo(&path, Mode::S_IRUSR | Mode::S_IWUSR).with_context(|| format!("make {path:?}"))?;
        let file = OpenOptions::new().read(true).write(true).open(&path);
        Ok(file.with_context(|| format!("open {path:?}"))?.into())
    };
    Ok((open(GO)?, open(OUTCOME)?))
}

/// Whether there is one: it is made when all is ready for an init, which the container then may have.
pub fn exists(room: &Path) -> Result<bool> {
    super::exists(&room.join(GO))
}

/// Whether an init waits: only then has `go` a reader.
pub fn is_waiting(room: &Path) -> Result<bool> {
    Ok(open_go(room)?.is_some())
}

/// Let init go on, and hear what came of it: nothing when it has become the user's program.
/// `interrupt` becomes readable when the caller does not want to wait any longer.
pub fn open(room: &Path, interrupt: Option<BorrowedFd<'_>>) -> Result<Option<Report>> {
    let path = room.join(OUTCOME);
    let outcome = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(&path)
        .with_context(|| format!("open {path:?}"))?;
    let Some(go) = open_go(room)? else { bail!("init does not wait to be started") };
    nix::unistd::write(&go, b"+").context("tell init to start")?;
    let blocking = nix::fcntl::OFlag::empty();
    nix::fcntl::fcntl(&outcome, nix::fcntl::FcntlArg::F_SETFL(blocking)).context("wait for init")?;
    let report = match wire::wait_unless(outcome.as_fd(), interrupt.as_slice()).context("hear from init")? {
        Some(_) => bail!(wire::INTERRUPTED),
        None => wire::receive(outcome.as_fd()).context("hear from init")?,
    };
    if report.is_none() {
        wait_for_last_reader(&go)?;
    }
    Ok(report)
}

/// execve(2) closes one FIFO after the other, and who asks in between must not hear that init still waits.
/// A FIFO without a reader is an error to its writers; nothing else is waited for, and the container has started even if a
/// machine that stands still has not come so far.
fn wait_for_last_reader(go: &File) -> Result<()> {
    const PATIENCE_MS: u16 = 1000;
    let mut fds = [PollFd::new(go.as_fd(), PollFlags::empty())];
    match poll(&mut fds, PATIENCE_MS) {
        Ok(_) | Err(Errno::EINTR) => Ok(()),
        Err(error) => Err(error).context("wait for init"),
    }
}

fn open_go(room: &Path) -> Result<Option<File>> {
    let path = room.join(GO);
    match OpenOptions::new().write(true).custom_flags(libc::O_NONBLOCK).open(&path) {
        Err(error) if error.raw_os_error() == Some(Errno::ENXIO as i32) => Ok(None),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        result => result.map(Some).with_context(|| format!("open {path:?}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gate_without_init_cannot_be_opened() {
        let room = tempfile::tempdir().unwrap();
        drop(make(room.path()).unwrap());
        assert!(!is_waiting(room.path()).unwrap());
        assert!(open(room.path(), None).is_err());
    }

    #[test]
    fn init_that_ends_without_a_word_was_a_success() {
        let room = tempfile::tempdir().unwrap();
        let (go, outcome) = make(room.path()).unwrap();
        assert!(is_waiting(room.path()).unwrap());
        let init = std::thread::spawn(move || {
            nix::unistd::read(&go, &mut [0; 1]).unwrap();
            drop(outcome);
        });
        assert_eq!(open(room.path(), None).unwrap(), None);
        init.join().unwrap();
        assert!(!is_waiting(room.path()).unwrap());
    }
}
