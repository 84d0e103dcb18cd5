//! The runtime that stays: forwards signals, relays a terminal, reaps, and ends as its child ends.
//!
//! Runs outside, for `run` and `exec` without `--detach`. One poll loop; no thread.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};

use super::relay::Relay;
use super::spawn::Child;
use crate::host::notify::Notify;
use crate::plan::Terminal;
use crate::sys::fd::{inherited, receive_fd};
use crate::sys::process::{Ended, Whom, every_signal, signal, wait};
use crate::sys::terminal;

/// Signals are held back from the moment this exists, so that none is lost while the child is made.
pub struct Foreground {
    signals: SignalFd,
    /// Those of [`ENDINGS`] alone, and never read: it stays readable for who makes the child.
    endings: SignalFd,
}

/// What these say about the runtime itself must not wait: its own faults, and that its shell has it in the background.
const OWN: [Signal; 7] = [
    Signal::SIGSEGV,
    Signal::SIGBUS,
    Signal::SIGILL,
    Signal::SIGFPE,
    Signal::SIGABRT,
    Signal::SIGTTIN,
    Signal::SIGTTOU,
];

/// Signals that end a runtime which has nobody yet to hand them to.
const ENDINGS: [Signal; 4] = [Signal::SIGHUP, Signal::SIGINT, Signal::SIGQUIT, Signal::SIGTERM];

impl Foreground {
    pub fn prepare() -> Result<Foreground> {
        let mut set = every_signal();
        OWN.into_iter().for_each(|signal| set.remove(signal));
        set.thread_block().context("block signals")?;
        let flags = SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK;
        let listen = |set: &SigSet| SignalFd::with_flags(set, flags).context("listen for signals");
        Ok(Foreground { signals: listen(&set)?, endings: listen(&SigSet::from_iter(ENDINGS))? })
    }

    /// Readable when a signal has arrived that asks for the end.
    pub fn interrupt(&self) -> BorrowedFd<'_> {
        self.endings.as_fd()
    }

    /// The same, for somebody's keeping.
    pub fn share_interrupt(&self) -> Result<OwnedFd> {
        self.endings.as_fd().try_clone_to_owned().context("copy a descriptor")
    }

    /// Stay until the child has ended; `terminal` is the master of its terminal, if it has one, and `notify` is where it
    /// says that it is ready, if somebody wants to know.
    pub fn attend(
        &self,
        child: &Child,
        terminal: Option<OwnedFd>,
        notify: Option<&Notify<'_>>,
    ) -> Result<Ended> {
        let mut relay = terminal.map(Relay::new).transpose()?;
        loop {
            self.wait_for_work(relay.as_mut(), notify)?;
            relay.take_if(|relay| relay.is_over());
            if let Some(ended) = self.serve_signals(child, relay.as_mut())? {
                if let Some(relay) = &mut relay {
                    relay.drain(|output| self.is_writable(output))?;
                }
                if let Some(notify) = notify {
                    notify.drain(own_pid())?;
                }
                return Ok(ended);
            }
        }
    }

    fn wait_for_work(&self, mut relay: Option<&mut Relay>, notify: Option<&Notify<'_>>) -> Result<()> {
        let wanted = relay.as_ref().map(|relay| relay.wanted()).unwrap_or_default();
        let patience = relay.as_ref().map_or(PollTimeout::NONE, |relay| relay.patience());
        let ends = relay.iter().flat_map(|relay| wanted.iter().map(|(end, flags)| (relay.fd(*end), *flags)));
        let readable = [Some(self.signals.as_fd()), notify.map(Notify::fd)].into_iter().flatten();
        let mut fds: Vec<PollFd<'_>> = ends
            .chain(readable.map(|fd| (fd, PollFlags::POLLIN)))
            .map(|(fd, flags)| PollFd::new(fd, flags))
            .collect();
        ignore_interruption(poll(&mut fds, patience))?;
        let events: Vec<PollFlags> =
            fds.iter().map(|fd| fd.revents().unwrap_or(PollFlags::empty())).collect();
        if let Some(notify) = notify
            && events.last().is_some_and(|last| !last.is_empty())
        {
            notify.relay(own_pid())?;
        }
        match &mut relay {
            Some(relay) => {
                relay.serve(&wanted.into_iter().map(|(end, _)| end).zip(events).collect::<Vec<_>>())
            }
            None => Ok(()),
        }
    }

    /// Wait until what the container wrote last can be passed on. Its reader may have stopped reading for good, so
    /// any signal that would end us is the end of the waiting.
    fn is_writable(&self, output: BorrowedFd<'_>) -> Result<bool> {
        loop {
            let signals = PollFd::new(self.signals.as_fd(), PollFlags::POLLIN);
            let mut fds = [signals, PollFd::new(output, PollFlags::POLLOUT)];
            ignore_interruption(poll(&mut fds, PollTimeout::NONE))?;
            while let Some(info) = self.signals.read_signal().context("read a signal")? {
                if !matches!(info.ssi_signo as i32, libc::SIGCHLD | libc::SIGWINCH | libc::SIGURG) {
                    return Ok(false);
                }
            }
            if fds[1].revents().is_some_and(|events| !events.is_empty()) {
                return Ok(true);
            }
        }
    }

    /// Hand on what has arrived; the child's end, if that is among it.
    fn serve_signals(&self, child: &Child, mut relay: Option<&mut Relay>) -> Result<Option<Ended>> {
        while let Some(info) = self.signals.read_signal().context("read a signal")? {
            let number = info.ssi_signo as i32;
            match number {
                libc::SIGCHLD => {
                    if let Some(ended) = reap(child)? {
                        return Ok(Some(ended));
                    }
                }
                libc::SIGWINCH => {
                    if let Some(relay) = &relay {
                        relay.follow_size();
                    }
                }
                // A shell that had us stopped has used the terminal meanwhile.
                libc::SIGCONT if relay.is_some() => {
                    relay.iter_mut().try_for_each(|relay| relay.take_terminal())?;
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

/// What a service manager is to watch: signals for it are handed on.
fn own_pid() -> i32 {
    std::process::id() as i32
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

/// The size of our own terminal, if we have one.
pub fn own_size() -> Option<Terminal> {
    let (rows, columns) = terminal::size(inherited(0)).ok()?;
    Some(Terminal { rows, columns })
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
