//! The criu program: started as `criu swrk`, spoken to over a socket pair until it has answered.
//!
//! Runs outside. Knows how to converse, not what about: requests come from `plan/`, and what a notification means is
//! its caller's business. With its socket closed criu gives up by itself and lets go of the processes that it holds. It is
//! killed only when it does not: it waits then for somebody else, who fetches memory from it or serves it.

use std::ffi::{CStr, CString};
use std::io::{Read, Seek, SeekFrom};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use anyhow::{Context, Error, Result, anyhow, bail, ensure};
use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::{CloneFlags, unshare};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
use nix::sys::stat::Mode;

use super::hooks::{own_environment, saying};
use crate::plan::criu::{self, Answer, Features, Kind, Needs, Notice};
use crate::sys::creds::join_session_keyring;
use crate::sys::fd::{
    close_on_exec_from, duplicate_onto, keep_on_exec, receive_fd, send_with_fd, write_once,
};
use crate::sys::mount;
use crate::sys::process::Image;
use crate::sys::program::{self, Started};

/// How long criu may take to give up.
const PATIENCE_MS: u64 = 5000;

/// More than any answer has; descriptors come with notifications, which are small.
const LARGEST_ANSWER: usize = 64 * 1024;

/// A criu that waits to be asked.
pub struct Criu {
    started: Started,
    socket: OwnedFd,
    /// What it says before it has a log.
    output: OwnedFd,
}

/// Where criu works, and what it finds open there. What it restores inherits the place.
#[derive(Default)]
pub struct Workplace<'a> {
    pub birthplace: Option<BorrowedFd<'a>>,
    /// Every v1 hierarchy's `tasks`.
    pub doors: &'a [OwnedFd],
    /// A session keyring of its own, or that of whoever called the runtime would be the container's.
    pub keyring: Option<&'a CStr>,
    /// A tree, and the directory it is mounted on, where nobody but criu and its children can see it.
    pub root: Option<(BorrowedFd<'a>, &'a CStr)>,
    /// What stays open, under its number here. Of a directory with a path the one that criu's own mounts have there:
    /// on the host's, from which it has parted, it could not mount.
    pub kept: &'a [(BorrowedFd<'a>, Option<&'a CStr>)],
}

impl Criu {
    pub fn start(place: &Workplace<'_>) -> Result<Criu> {
        let path = find()?;
        let (hatch, theirs) = pair().context("make a socket pair")?;
        let number = CString::new(theirs.as_raw_fd().to_string())?;
        let arguments = [c"criu".to_owned(), c"swrk".to_owned(), number];
        let environment = own_environment()?;
        let image = Image::new(&arguments, &environment);
        let output = program::memory_file().context("make a file in memory")?;
        let prepare = || settle(place, theirs.as_fd(), output.as_fd());
        let started = program::start(&path, &image, place.birthplace, prepare).context("start criu")?;
        let started = started.with_context(|| format!("start {path:?}"))?;
        match receive_fd(hatch.as_fd(), &mut [0; 8]) {
            Ok((_, Some(socket))) => Ok(Criu { started, socket, output }),
            unheard => {
                started.end_within(Some(0)).context("wait for criu")?;
                unheard.context("connect to criu")?;
                bail!("criu ended before it could be asked")
            }
        }
    }

    /// It does nothing until it is asked.
    pub fn pid(&self) -> i32 {
        self.started.pid
    }

    /// Refuse a criu that is too old, or on this kernel cannot do what is needed.
    fn check(&self, needs: Needs) -> Result<()> {
        let (major, minor) = self.inquire(Kind::Version, Features::default())?.version;
        if (major, minor) < needs.version {
            let (least, then) = needs.version;
            let error = anyhow!("criu is version {major}.{minor}, and {least}.{then} or newer is needed");
            return Err(match needs.place {
                Some(place) => error.context(format!("config.json: {place}")),
                None => error,
            });
        }
        let needs = needs.features;
        if needs == Features::default() {
            return Ok(());
        }
        let has = self.inquire(Kind::FeatureCheck, needs)?.features;
        ensure!(
            has.mem_track || !needs.mem_track,
            "criu cannot follow changes of memory on this kernel, which a pre-dump or a parent needs"
        );
        ensure!(
            has.lazy_pages || !needs.lazy_pages,
            "criu cannot serve pages lazily on this kernel (--lazy-pages)"
        );
        Ok(())
    }

    fn inquire(&self, kind: Kind, features: Features) -> Result<Answer> {
        self.say(&criu::question(kind, features)?)?;
        let (answer, _) = self.hear(None)?;
        ensure!(answer.is(kind) && answer.success, "criu does not answer: {}", answer.message);
        Ok(answer)
    }

    /// Put a request and heed notifications until criu has answered. Whoever cannot go on after a notification has criu
    /// give up, and is the reason for it. `interrupt` becomes readable when nobody wants to wait any longer.
    pub fn ask(
        &self,
        request: &[u8],
        kind: Kind,
        needs: Needs,
        interrupt: Option<BorrowedFd<'_>>,
        mut heed: impl FnMut(&Notice, Option<OwnedFd>) -> Result<()>,
    ) -> Result<()> {
        self.check(needs)?;
        self.say(request)?;
        let mut reason: Option<Error> = None;
        loop {
            let (answer, fd) = match (self.hear(interrupt), reason.take()) {
                (Err(_), Some(reason)) => return Err(reason),
                (heard, kept) => {
                    reason = kept;
                    heard?
                }
            };
            match (&mut reason, answer.success) {
                (_, true) if answer.is(Kind::Notify) => {
                    if reason.is_none() {
                        reason = heed(&answer.notice, fd).err();
                    }
                    self.say(&criu::acknowledgement(reason.is_none())?)?;
                    if answer.notice.script == "pre-resume" {
                        // It does not give up any more, and may wait for what is dead.
                        reason.take().map_or(Ok(()), Err)?;
                    }
                }
                (None, true) if answer.is(kind) => return Ok(()),
                (None, _) => bail!(Refused { message: answer.message }),
                (Some(_), _) => return Err(reason.take().unwrap_or_else(|| anyhow!("criu gave up"))),
            }
        }
    }

    /// Let go of criu and wait for its end. What came of asking it becomes one sentence: the last errors that criu wrote
    /// to its log, and where the others are.
    pub fn end(self, asked: Result<()>, log: &Path) -> Result<()> {
        drop(self.socket);
        let patience = asked.is_err().then_some(PATIENCE_MS);
        self.started.end_within(patience).context("wait for criu")?;
        asked.map_err(|error| match error.is::<Refused>() {
            true => explained(error, log, &program::last_words(&self.output)),
            false => error,
        })
    }

    fn say(&self, message: &[u8]) -> Result<()> {
        write_once(self.socket.as_fd(), message).context("speak to criu")
    }

    /// Its next message, and the descriptor that came with it. Processes that criu has restored may hold its end of the
    /// socket, so its own end counts as well.
    fn hear(&self, interrupt: Option<BorrowedFd<'_>>) -> Result<(Answer, Option<OwnedFd>)> {
        let mut buffer = vec![0; LARGEST_ANSWER];
        let end = self.started.pidfd.as_fd();
        loop {
            // Without an interrupt the end is looked for twice.
            let mut fds = [self.socket.as_fd(), end, interrupt.unwrap_or(end)]
                .map(|fd| PollFd::new(fd, PollFlags::POLLIN));
            match poll(&mut fds, PollTimeout::NONE) {
                Err(Errno::EINTR) => continue,
                result => result.context("wait for criu")?,
            };
            let [_, ended, last] = fds.map(|fd| fd.any() == Some(true));
            ensure!(!last || ended, "interrupted by a signal");
            match receive_fd(self.socket.as_fd(), &mut buffer) {
                Ok((0, _)) | Err(Errno::EAGAIN | Errno::ECONNRESET) => bail!(Refused::default()),
                Ok((length, fd)) => return Ok((Answer::decode(&buffer[..length])?, fd)),
                Err(error) => return Err(error).context("hear from criu"),
            }
        }
    }
}

/// criu says no, or nothing more; the reason is in its log.
#[derive(Debug, Default)]
pub struct Refused {
    message: String,
}

impl std::error::Error for Refused {}

impl std::fmt::Display for Refused {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.message.as_str() {
            "" => write!(f, "criu gave up"),
            message => write!(f, "criu gave up, saying: {message}"),
        }
    }
}

fn pair() -> Result<(OwnedFd, OwnedFd), Errno> {
    socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)
}

/// In the child: into its group, its mounts and its keyring; all but what is kept is closed on execve(2).
///
/// The numbers of descriptors in a request are those of whoever made the socket pair (criu looks in its `/proc/PID/fd`),
/// so the child makes it, puts its end where `socket` was and sends the other through that before.
fn settle(place: &Workplace<'_>, socket: BorrowedFd<'_>, output: BorrowedFd<'_>) -> Result<(), Errno> {
    duplicate_onto(output, 1)?;
    duplicate_onto(output, 2)?;
    for door in place.doors {
        write_once(door.as_fd(), b"0")?;
    }
    if let Some(name) = place.keyring {
        match join_session_keyring(name) {
            // A kernel without keyrings.
            Err(Errno::ENOSYS) => {}
            result => result?,
        }
    }
    if let Some((tree, directory)) = place.root {
        unshare(CloneFlags::CLONE_NEWNS)?;
        mount::set_propagation_of_root(libc::MS_SLAVE)?;
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        mount::attach(tree, open(directory, flags, Mode::empty())?.as_fd())?;
    }
    close_on_exec_from(3)?;
    for (kept, path) in place.kept {
        match path.filter(|_| place.root.is_some()) {
            Some(path) => {
                let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
                duplicate_onto(open(path, flags, Mode::empty())?.as_fd(), kept.as_raw_fd())?;
            }
            None => keep_on_exec(*kept)?,
        }
    }
    let (ours, theirs) = pair()?;
    send_with_fd(socket, b"criu", theirs.as_fd())?;
    duplicate_onto(ours.as_fd(), socket.as_raw_fd())
}

fn find() -> Result<CString> {
    let found = program::find("criu").context("exec: \"criu\": executable file not found in $PATH")?;
    Ok(CString::new(found.as_os_str().as_bytes())?)
}

fn explained(error: Error, log: &Path, said: &[u8]) -> Error {
    match last_errors(log) {
        Ok(errors) if errors.is_empty() => error.context(format!("see {}", log.display())),
        Ok(errors) => anyhow!("criu gave up: {} (see {})", errors.join("; "), log.display()),
        // It has not come as far as to have a log.
        Err(_) => anyhow!("{error}{}", saying(said)),
    }
}

fn last_errors(log: &Path) -> std::io::Result<Vec<String>> {
    const MOST_BYTES: u64 = 256 * 1024;
    const MOST_LINES: usize = 3;
    let mut file = std::fs::File::open(log)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(MOST_BYTES)))?;
    let mut text = Vec::new();
    file.take(MOST_BYTES).read_to_end(&mut text)?;
    let text = String::from_utf8_lossy(&text);
    let errors: Vec<String> = text.lines().filter_map(error_of).collect();
    Ok(errors[errors.len().saturating_sub(MOST_LINES)..].to_vec())
}

/// `(00.012345)    123: Error (criu/mount.c:12): words` without time, process and place in criu's source.
fn error_of(line: &str) -> Option<String> {
    let (_, rest) = line.split_once("Error (")?;
    let (_, words) = rest.split_once("): ")?;
    let words: Vec<&str> = words.split_whitespace().collect();
    Some(words.join(" "))
}

#[cfg(test)]
mod tests;
