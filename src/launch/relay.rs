//! Passes bytes between our own terminal, or whatever the standard streams are, and that of the container.
//!
//! Runs outside, in the runtime that stays. Never waits: [`super::foreground`] does, for this and for signals.

use std::io::Write;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl, open};
use nix::poll::{PollFlags, PollTimeout};
use nix::sys::stat::{Mode, fstat};
use nix::sys::termios::{
    LocalFlags, SetArg, SpecialCharacterIndices, Termios, cfmakeraw, tcgetattr, tcsetattr,
};
use nix::unistd::{isatty, read, write};

use crate::sys::fd::inherited;
use crate::sys::strerror;
use crate::sys::terminal;

/// How often to look for a new user of a terminal that everybody has closed.
const LOOK_AGAIN_MS: u16 = 50;

const READABLE: PollFlags = PollFlags::POLLIN.union(PollFlags::POLLHUP).union(PollFlags::POLLERR);
const WRITABLE: PollFlags = PollFlags::POLLOUT.union(PollFlags::POLLHUP).union(PollFlags::POLLERR);

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum End {
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

    /// The last byte that came through.
    fn last(&self) -> Option<u8> {
        self.buffer[..self.end].last().copied()
    }

    fn put(&mut self, bytes: &[u8]) {
        self.buffer[..bytes.len()].copy_from_slice(bytes);
        (self.start, self.end) = (0, bytes.len());
    }

    /// Whether there is more to come.
    fn fill(&mut self, from: BorrowedFd<'_>) -> bool {
        match read(from, &mut self.buffer) {
            Ok(0) => false,
            Ok(length) => {
                (self.start, self.end) = (0, length);
                true
            }
            Err(Errno::EAGAIN | Errno::EINTR) => true,
            // A master says EIO when its terminal has no user left, and our terminal when we may not read it. A directory
            // cannot be read either, and the container is none the worse for it.
            Err(_) => false,
        }
    }

    /// What nobody takes any more, or has no room for, is gone; the container goes on.
    fn empty(&mut self, to: BorrowedFd<'_>) {
        match write(to, &self.buffer[self.start..self.end]) {
            Ok(length) => self.start += length,
            Err(Errno::EAGAIN | Errno::EINTR) => {}
            Err(_) => self.start = self.end,
        }
    }
}

/// Our terminal on one side, the container's on the other.
pub struct Relay {
    master: OwnedFd,
    /// Our terminal once more, where writing to it does not wait: others share the standard output's flags.
    output: Option<OwnedFd>,
    inward: Flow,
    outward: Flow,
    input_open: bool,
    /// Our own terminal is gone, as when its window is closed.
    hung_up: bool,
    /// Nobody in the container has the terminal open at the moment.
    abandoned: bool,
    /// How our own terminal was, to be restored on every way out.
    before: Option<Termios>,
}

impl Relay {
    pub fn new(master: OwnedFd) -> Result<Relay> {
        fcntl(&master, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).context("prepare the terminal")?;
        let mut relay = Relay {
            master,
            output: own_output()?,
            inward: Flow::new(),
            outward: Flow::new(),
            input_open: true,
            hung_up: false,
            abandoned: false,
            before: None,
        };
        relay.take_terminal()?;
        Ok(relay)
    }

    /// Make our own terminal raw, if we have one: at first, and when a shell that stopped us lets us go on.
    pub fn take_terminal(&mut self) -> Result<()> {
        self.follow_size();
        let Ok(present) = tcgetattr(inherited(0)) else { return Ok(()) };
        let mut raw = present.clone();
        cfmakeraw(&mut raw);
        match tcsetattr(inherited(0), SetArg::TCSANOW, &raw) {
            // In the background, with no shell left that could bring us to the front.
            Err(Errno::EIO) => {}
            result => {
                result.context("make the terminal raw")?;
                self.before.get_or_insert(present);
            }
        }
        Ok(())
    }

    /// A size that cannot be read or set stays as it is: there may be no terminal on our side.
    pub fn follow_size(&self) {
        if let Ok((rows, columns)) = terminal::size(inherited(0)) {
            // The container may have closed its terminal.
            let _ = terminal::resize(self.master.as_fd(), rows, columns);
        }
    }

    pub fn fd(&self, end: End) -> BorrowedFd<'_> {
        match end {
            End::Input => inherited(0),
            End::Output => self.output.as_ref().map_or(inherited(1), AsFd::as_fd),
            End::Master => self.master.as_fd(),
        }
    }

    /// What to wait for.
    pub fn wanted(&self) -> Vec<(End, PollFlags)> {
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
        if !self.abandoned && !master.is_empty() {
            wanted.push((End::Master, master));
        }
        wanted
    }

    /// And for how long: a master without a user is ready all the time.
    pub fn patience(&self) -> PollTimeout {
        if self.abandoned { LOOK_AGAIN_MS.into() } else { PollTimeout::NONE }
    }

    pub fn serve(&mut self, ready: &[(End, PollFlags)]) -> Result<()> {
        // A program that has closed the terminal may open it again, as a service manager does.
        self.abandoned = false;
        for (end, events) in ready {
            match end {
                End::Input if events.intersects(READABLE) => {
                    self.take_input()?;
                    self.hung_up = self.before.is_some() && events.contains(PollFlags::POLLHUP);
                }
                End::Output if events.intersects(WRITABLE) => self.pass_on(),
                End::Master => {
                    if events.contains(PollFlags::POLLOUT) && !self.inward.is_empty() {
                        self.inward.empty(self.master.as_fd());
                    }
                    if events.intersects(READABLE) && self.outward.is_empty() {
                        self.abandoned = !self.outward.fill(self.master.as_fd());
                    }
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Whether there is nobody to relay for. Dropped then, this hangs up the container's terminal as well: whoever
    /// reads there finds the end, and who began it gets SIGHUP.
    pub fn is_over(&self) -> bool {
        self.hung_up
    }

    /// The end of a pipe or a file is said as it is typed, since a terminal has no other way to say it: once for
    /// the end of a line that is unfinished, once for the end of all. A terminal that is raw has no end but its own.
    fn take_input(&mut self) -> Result<()> {
        let last = self.inward.last();
        self.input_open = self.inward.fill(inherited(0));
        let typed = tcgetattr(&self.master).context("look at the terminal")?;
        if !self.input_open && self.before.is_none() && typed.local_flags.contains(LocalFlags::ICANON) {
            let end = typed.control_chars[SpecialCharacterIndices::VEOF as usize];
            let unfinished = last.is_some_and(|byte| byte != b'\n');
            self.inward.put(&[end, end][..if unfinished { 2 } else { 1 }]);
        }
        Ok(())
    }

    fn pass_on(&mut self) {
        let output = self.output.as_ref().map_or(inherited(1), AsFd::as_fd);
        self.outward.empty(output);
    }

    /// Pass on what the container wrote last, after its end, for as long as `is_writable` waits for its reader.
    pub fn drain(&mut self, is_writable: impl Fn(BorrowedFd<'_>) -> Result<bool>) -> Result<()> {
        loop {
            while !self.outward.is_empty() {
                if !is_writable(self.fd(End::Output))? {
                    return Ok(());
                }
                self.pass_on();
            }
            if !self.outward.fill(self.master.as_fd()) || self.outward.is_empty() {
                return Ok(());
            }
        }
    }
}

/// Opened again, our terminal has flags of its own. A master of one would be another one's then.
fn own_output() -> Result<Option<OwnedFd>> {
    let stdout = inherited(1);
    let is_master = fstat(stdout).is_ok_and(|stat| stat.st_rdev == libc::makedev(5, 2));
    if is_master || !isatty(stdout).unwrap_or(false) {
        return Ok(None);
    }
    let flags = OFlag::O_WRONLY | OFlag::O_NONBLOCK | OFlag::O_NOCTTY | OFlag::O_CLOEXEC;
    match open(c"/proc/self/fd/1", flags, Mode::empty()) {
        // Somebody else's terminal, lent to us.
        Err(Errno::EACCES | Errno::EPERM | Errno::ENXIO | Errno::ENOENT | Errno::EIO) => Ok(None),
        result => result.map(Some).context("open the terminal"),
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        if let Some(before) = &self.before
            && !self.hung_up
            && let Err(error) = tcsetattr(inherited(0), SetArg::TCSANOW, before)
        {
            // Nobody is left to tell it to.
            let _ = writeln!(std::io::stderr(), "restore the terminal: {}", strerror(error));
        }
    }
}
