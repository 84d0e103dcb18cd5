//! Another program, run to its end: hooks, newuidmap(1), newgidmap(1).
//!
//! Runs on either side of a clone. The program gets its input in a memory file and leaves its output in another, so
//! that a program which does not read, or does not stop writing, blocks nobody.

use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use nix::errno::Errno;
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::unistd::{Whence, lseek};

use super::fd::{close_on_exec_from, duplicate_onto, write_once};
use super::process::{
    Ended, Image, Side, Whom, clone_process, ends_within, exit_now, restore_signals, signal, wait,
};

/// What to run, and for how long.
pub struct Program<'a> {
    pub path: &'a CStr,
    pub arguments: &'a [CString],
    pub environment: &'a [CString],
    /// What it reads on its standard input, piece after piece.
    pub input: &'a [&'a [u8]],
    /// Where its standard output and error go; where the runtime's own do when `None`.
    pub stdout: Option<BorrowedFd<'a>>,
    pub stderr: Option<BorrowedFd<'a>>,
    pub timeout_ms: Option<u64>,
}

/// How a program came out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    Ended(Ended),
    TimedOut,
    NotStarted(Errno),
}

/// Run a program and wait for it. An error is ours (memory, processes), not the program's.
pub fn run(program: &Program<'_>) -> Result<Outcome, Errno> {
    let input = memory_file()?;
    for piece in program.input {
        write_once(input.as_fd(), piece)?;
    }
    lseek(&input, 0, Whence::SeekSet)?;
    let image = Image::new(program.arguments, program.environment);
    let prepare = || prepare(program, input.as_fd());
    let started = match start(program.path, &image, None, prepare)? {
        Ok(started) => started,
        Err(error) => return Ok(Outcome::NotStarted(error)),
    };
    Ok(started.end_within(program.timeout_ms)?.map_or(Outcome::TimedOut, Outcome::Ended))
}

/// A program that runs, and that we have not waited for.
#[derive(Debug)]
pub struct Started {
    pub pid: i32,
    pub pidfd: OwnedFd,
}

impl Started {
    /// Wait for its end, and after too long a while be its end: `None`.
    pub fn end_within(&self, timeout_ms: Option<u64>) -> Result<Option<Ended>, Errno> {
        let watched = ends_within(self.pidfd.as_fd(), timeout_ms);
        if !matches!(watched, Ok(true)) {
            // Whatever went wrong, it must not go on without us.
            signal(self.pidfd.as_fd(), libc::SIGKILL)?;
        }
        let ended = wait(Whom::Process(self.pidfd.as_fd()), true)?;
        Ok(if watched? { ended.map(|(_, ended)| ended) } else { None })
    }
}

/// The program of this name, as PATH has it. Where that is relative it is nobody's.
pub fn find(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path)
        .filter(|directory| directory.is_absolute())
        .map(|directory| directory.join(name))
        .find(|file| {
            file.metadata().is_ok_and(|file| file.is_file() && file.permissions().mode() & 0o111 != 0)
        })
}

/// Start a program in the v2 cgroup `birthplace`, or in ours. `prepare` runs in the child and decides what it keeps: it
/// closes on execve(2) what the program is not to have. The inner error is why there is no program.
pub fn start(
    path: &CStr,
    image: &Image<'_>,
    birthplace: Option<BorrowedFd<'_>>,
    prepare: impl FnOnce() -> Result<(), Errno>,
) -> Result<Result<Started, Errno>, Errno> {
    let (failure, tell) = nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC)?;
    let started = match clone_process(0, birthplace)? {
        Side::Child => {
            let error = match restore_signals().and_then(|()| prepare()) {
                Ok(()) => image.execute(path),
                Err(error) => error,
            };
            // A parent that is gone needs no reason.
            let _ = write_once(tell.as_fd(), &(error as i32).to_ne_bytes());
            exit_now(127)
        }
        Side::Parent { pid, pidfd } => Started { pid, pidfd },
    };
    drop(tell);
    let mut errno = [0; 4];
    let told = nix::unistd::read(&failure, &mut errno);
    if told.is_ok_and(|length| length < errno.len()) {
        return Ok(Ok(started));
    }
    started.end_within(told.is_err().then_some(0))?;
    told?;
    Ok(Err(Errno::from_raw(i32::from_ne_bytes(errno))))
}

fn prepare(program: &Program<'_>, input: BorrowedFd<'_>) -> Result<(), Errno> {
    duplicate_onto(input, 0)?;
    for (stream, output) in [(1, program.stdout), (2, program.stderr)] {
        if let Some(output) = output {
            duplicate_onto(output, stream)?;
        }
    }
    close_on_exec_from(3)
}

/// The end of what a program printed to a memory file, as much as travels in a note.
pub fn last_words(output: &OwnedFd) -> Vec<u8> {
    const MOST: i64 = 240;
    let mut words = vec![0; MOST as usize];
    let end = lseek(output, 0, Whence::SeekEnd).unwrap_or(0);
    let length = nix::sys::uio::pread(output, &mut words, (end - MOST).max(0)).unwrap_or(0);
    words.truncate(length);
    words
}

/// An empty file in memory, for a program's input or output.
pub fn memory_file() -> Result<OwnedFd, Errno> {
    memfd_create(c"corten", MFdFlags::MFD_CLOEXEC)
}
