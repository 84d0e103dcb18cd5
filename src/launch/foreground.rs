//! The runtime that stays: forwards signals, relays a terminal, reaps, and ends as its child ends.
//!
//! Runs outside, for `run` and `exec` without `--detach`. One poll loop; no thread.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::termios::{SetArg, Termios, cfmakeraw, tcgetattr, tcsetattr};
use nix::unistd::{read, write};

use super::spawn::Child;
use crate::sys::fd::{inherited, receive_fd};
use crate::sys::process::{Ended, Whom, signal, wait};
use crate::sys::terminal;

/// Signals are held back from the moment this exists, so that none is lost while the child is made.
pub struct Foreground {
    signals: SignalFd,
}

impl Foreground {
    pub fn prepare() -> Result<Foreground> {
        let mut set = SigSet::all();
        // What these say about the runtime itself must not wait.
        for fault in [Signal::SIGSEGV, Signal::SIGBUS, Signal::SIGILL, Signal::SIGFPE, Signal::SIGABRT] {
            set.remove(fault);
        }
        set.thread_block().context("block signals")?;
        let flags = SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK;
        Ok(Foreground { signals: SignalFd::with_flags(&set, flags).context("listen for signals")? })
    }

    /// Stay until the child has ended; `terminal` is the master of its terminal, if it has one.
    pub fn attend(&self, child: &Child, terminal: Option<OwnedFd>) -> Result<Ended> {
        let mut relay = terminal.map(Relay::new).transpose()?;
        loop {
            self.wait_for_work(relay.as_mut())?;
            if let Some(ended) = self.serve_signals(child, relay.as_ref())? {
                if let Some(relay) = &mut relay {
                    relay.drain()?;
                }
                return Ok(ended);
            }
        }
    }

    fn wait_for_work(&self, relay: Option<&mut Relay>) -> Result<()> {
        let signals = PollFd::new(self.signals.as_fd(), PollFlags::POLLIN);
        let Some(relay) = relay else {
            return ignore_interruption(poll(&mut [signals], PollTimeout::NONE)).map(drop);
        };
        let wanted = relay.wanted();
        let mut fds = vec![signals];
        fds.extend(wanted.iter().map(|(end, flags)| PollFd::new(relay.fd(*end), *flags)));
        ignore_interruption(poll(&mut fds, PollTimeout::NONE))?;
        let ready: Vec<(End, PollFlags)> = wanted
            .iter()
            .zip(&fds[1..])
            .map(|((end, _), fd)| (*end, fd.revents().unwrap_or(PollFlags::empty())))
            .collect();
        relay.serve(&ready)
    }

    /// Hand on what has arrived; the child's end, if that is among it.
    fn serve_signals(&self, child: &Child, relay: Option<&Relay>) -> Result<Option<Ended>> {
        while let Some(info) = self.signals.read_signal().context("read a signal")? {
            let number = info.ssi_signo as i32;
            match number {
                libc::SIGCHLD => {
                    if let Some(ended) = reap(child)? {
                        return Ok(Some(ended));
                    }
                }
                libc::SIGWINCH => {
                    if let Some(relay) = relay {
                        relay.follow_size();
                    }
                }
                // Go programs get this one from themselves, and it asks for nothing.
                libc::SIGURG => {}
                _ => match signal(child.pidfd.as_fd(), number) {
                    Ok(()) | Err(Errno::ESRCH) => {}
                    Err(error) => return Err(error).context("forward a signal"),
                },
            }
        }
        Ok(None)
    }
}

fn ignore_interruption(result: Result<i32, Errno>) -> Result<i32> {
    match result {
        Err(Errno::EINTR) => Ok(0),
        result => result.context("wait for the container"),
    }
}

/// Wait for all children that have ended, orphans that were left to us among them.
fn reap(child: &Child) -> Result<Option<Ended>> {
    loop {
        match wait(Whom::AnyChild, false) {
            Ok(Some((pid, ended))) if pid == child.pid => return Ok(Some(ended)),
            Ok(Some(_)) => {}
            Ok(None) | Err(Errno::ECHILD) => return Ok(None),
            Err(error) => return Err(error).context("wait for the container"),
        }
    }
}

/// The master of the child's terminal, as the child sent it; none when it has no terminal.
///
/// To be called when the child is ready: it has sent it by then or never will, and holds the other end no more.
pub fn receive_terminal(socket: BorrowedFd<'_>) -> Result<Option<OwnedFd>> {
    match receive_fd(socket, &mut [0; 64]) {
        Ok((_, master)) => Ok(master),
        Err(Errno::EAGAIN) => Ok(None),
        Err(error) => Err(error).context("receive the terminal"),
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    Input,
    Output,
    Master,
}

/// Bytes under way in one direction.
struct Flow {
    buffer: [u8; Flow::SIZE],
    start: usize,
    end: usize,
}

impl Flow {
    /// What a pipe takes at once when it takes anything (PIPE_BUF, pipe(7)), so that no write of ours blocks.
    const SIZE: usize = 4096;

    fn new() -> Flow {
        Flow { buffer: [0; Flow::SIZE], start: 0, end: 0 }
    }

    fn is_empty(&self) -> bool {
        self.start == self.end
    }

    /// Whether there is more to come.
    fn fill(&mut self, from: BorrowedFd<'_>) -> Result<bool> {
        match read(from, &mut self.buffer) {
            // A master says EIO when its terminal has no user left.
            Ok(0) | Err(Errno::EIO) => Ok(false),
            Ok(length) => {
                (self.start, self.end) = (0, length);
                Ok(true)
            }
            Err(Errno::EAGAIN | Errno::EINTR) => Ok(true),
            Err(error) => Err(error).context("read from the terminal"),
        }
    }

    /// Whether anybody still takes it.
    fn empty(&mut self, to: BorrowedFd<'_>) -> Result<bool> {
        match write(to, &self.buffer[self.start..self.end]) {
            Ok(length) => self.start += length,
            Err(Errno::EAGAIN | Errno::EINTR) => {}
            Err(Errno::EPIPE | Errno::EIO) => {
                self.start = self.end;
                return Ok(false);
            }
            Err(error) => return Err(error).context("write to the terminal"),
        }
        Ok(true)
    }
}

/// Our terminal on one side, the container's on the other.
struct Relay {
    master: OwnedFd,
    inward: Flow,
    outward: Flow,
    input_open: bool,
    master_open: bool,
    /// How our own terminal was, to be restored on every way out.
    before: Option<Termios>,
}

impl Relay {
    fn new(master: OwnedFd) -> Result<Relay> {
        use nix::fcntl::{FcntlArg, OFlag, fcntl};
        fcntl(&master, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).context("prepare the terminal")?;
        let before = tcgetattr(inherited(0)).ok();
        if let Some(before) = &before {
            let mut raw = before.clone();
            cfmakeraw(&mut raw);
            tcsetattr(inherited(0), SetArg::TCSANOW, &raw).context("make the terminal raw")?;
        }
        let relay = Relay {
            master,
            inward: Flow::new(),
            outward: Flow::new(),
            input_open: true,
            master_open: true,
            before,
        };
        relay.follow_size();
        Ok(relay)
    }

    /// A size that cannot be read or set stays as it is: there may be no terminal on our side.
    fn follow_size(&self) {
        if let Ok((rows, columns)) = terminal::size(inherited(0)) {
            let _ = terminal::resize(self.master.as_fd(), rows, columns);
        }
    }

    fn fd(&self, end: End) -> BorrowedFd<'_> {
        match end {
            End::Input => inherited(0),
            End::Output => inherited(1),
            End::Master => self.master.as_fd(),
        }
    }

    fn wanted(&self) -> Vec<(End, PollFlags)> {
        let mut wanted = Vec::with_capacity(3);
        if self.input_open && self.inward.is_empty() {
            wanted.push((End::Input, PollFlags::POLLIN));
        }
        if !self.outward.is_empty() {
            wanted.push((End::Output, PollFlags::POLLOUT));
        }
        let mut master = PollFlags::empty();
        if self.outward.is_empty() {
            master |= PollFlags::POLLIN;
        }
        if !self.inward.is_empty() {
            master |= PollFlags::POLLOUT;
        }
        if self.master_open && !master.is_empty() {
            wanted.push((End::Master, master));
        }
        wanted
    }

    fn serve(&mut self, ready: &[(End, PollFlags)]) -> Result<()> {
        let readable = PollFlags::POLLIN | PollFlags::POLLHUP | PollFlags::POLLERR;
        let writable = PollFlags::POLLOUT | PollFlags::POLLHUP | PollFlags::POLLERR;
        for (end, events) in ready {
            match end {
                End::Input if events.intersects(readable) => {
                    self.input_open = self.inward.fill(inherited(0))?;
                }
                End::Output if events.intersects(writable) => {
                    self.outward.empty(inherited(1))?;
                }
                End::Master => {
                    if events.contains(PollFlags::POLLOUT) && !self.inward.is_empty() {
                        self.inward.empty(self.master.as_fd())?;
                    }
                    if events.intersects(readable) && self.outward.is_empty() {
                        self.master_open = self.outward.fill(self.master.as_fd())?;
                    }
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// What the container wrote last, after its end.
    fn drain(&mut self) -> Result<()> {
        loop {
            while !self.outward.is_empty() {
                self.outward.empty(inherited(1))?;
            }
            if !self.outward.fill(self.master.as_fd())? || self.outward.is_empty() {
                return Ok(());
            }
        }
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        if let Some(before) = &self.before
            && let Err(error) = tcsetattr(inherited(0), SetArg::TCSANOW, before)
        {
            eprintln!("restore the terminal: {}", io::Error::from(error));
        }
    }
}
