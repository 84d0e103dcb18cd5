//! What is remembered of a container between two commands: the file `state.json`.
//!
//! Runs outside. The file's layout is private to corten; what engines see is [`super::Document`]'s to say.

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use nix::errno::Errno;
use serde::{Deserialize, Serialize};

use crate::host::resctrl::Resctrl;
use crate::plan::cgroup::{Location, Unit};
use crate::sys;

pub const FILE: &str = "state.json";

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct State {
    pub id: String,
    pub oci_version: String,
    /// Absolute.
    pub bundle: PathBuf,
    /// Absolute.
    pub rootfs: PathBuf,
    /// RFC 3339; when the runtime began to make it.
    pub created: String,
    /// Whether the configuration has annotations; else nobody needs to read it for them.
    pub annotated: bool,
    /// Whether init's end is the end of everything in the container.
    pub own_pid_namespace: bool,
    /// Whether the configuration has hooks for after the birth; else nobody needs to read it again.
    pub poststart: bool,
    pub poststop: bool,
    /// Whether the container has a directory for a socket to say that it is ready.
    #[serde(default)]
    pub notify: bool,
    /// The user that called `create`.
    pub owner: u32,
    /// `None` until there is an init: the record of an intent.
    pub init: Option<Process>,
    pub cgroup: Option<Location>,
    /// The unit that systemd is asked for, as long as its group is not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wanted: Option<Unit>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resctrl: Option<Resctrl>,
    /// Where init mounts the root for everybody to see, of a container that has no mount namespace of its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host_mount: Option<PathBuf>,
}

/// A process that cannot be mistaken for a later one with its pid.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    pub pid: i32,
    /// Clock ticks between boot and its start, field 22 of `/proc/PID/stat` (proc(5)).
    pub start_time: u64,
}

impl State {
    /// `None` when there is no such file.
    pub fn read(room: &Path) -> Result<Option<State>> {
        let path = room.join(FILE);
        let bytes = match fs::read(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            result => result.with_context(|| format!("read {path:?}"))?,
        };
        serde_json::from_slice(&bytes).with_context(|| format!("{path:?} is damaged")).map(Some)
    }
}

impl Process {
    /// Identify a living process, such as a child that has not been waited for.
    pub fn of(pid: i32) -> Result<Process> {
        let now = stat(pid)
            .with_context(|| format!("read /proc/{pid}/stat"))?
            .with_context(|| format!("process {pid} does not exist"))?;
        Ok(Process { pid, start_time: now.start_time })
    }

    /// A handle on it, if it still runs.
    pub fn open(&self) -> Result<Option<OwnedFd>> {
        let pidfd = match sys::process::open_pidfd(self.pid) {
            // Not the first two alone: some kernels say EINVAL, and newer ones ENOENT, for the pid of a process that is
            // gone while its session or process group lives on.
            Err(Errno::ESRCH | Errno::EINVAL | Errno::ENOENT) => return Ok(None),
            result => result.with_context(|| format!("open process {}", self.pid))?,
        };
        // Looked at after the handle is there: if this is our process now, the handle is of ours.
        Ok(self.is_alive()?.then_some(pidfd))
    }

    pub fn is_alive(&self) -> Result<bool> {
        let now = stat(self.pid).with_context(|| format!("read /proc/{}/stat", self.pid))?;
        Ok(now.is_some_and(|now| now.start_time == self.start_time && now.is_alive()))
    }
}

/// Wait until a process has ended, or the time is over; whether it has.
pub fn ends_within(pidfd: &OwnedFd, timeout_ms: u16) -> Result<bool> {
    sys::process::ends_within(pidfd.as_fd(), Some(timeout_ms.into())).context("wait for a process")
}

/// What keeps a process: its status, and where in the kernel it is, for the last word of a wait that was too long.
pub fn whereabouts(pid: i32) -> String {
    let file = |name: &str| fs::read_to_string(format!("/proc/{pid}/{name}")).unwrap_or_default();
    let status = file("status");
    let status = status.lines().find_map(|line| line.strip_prefix("State:")).unwrap_or("gone").trim();
    match file("wchan").trim() {
        "" | "0" => format!("is in state {status}"),
        // The likeliest reason why a first process that was killed does not go.
        "zap_pid_ns_processes" => {
            "has ended but for a process of its pid namespace that its own parent has not waited for"
                .to_owned()
        }
        place => format!("is in state {status}, in {place}"),
    }
}

/// The status letter and the start time of a process.
fn stat(pid: i32) -> io::Result<Option<Stat>> {
    // The kernel composes the file anew at each read(2), so it is read in one; what is looked at comes first.
    let mut text = [0; 1024];
    let length = match File::open(format!("/proc/{pid}/stat")).and_then(|mut file| file.read(&mut text)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        // The process ended between open and read.
        Err(error) if error.raw_os_error() == Some(Errno::ESRCH as i32) => return Ok(None),
        result => result?,
    };
    Stat::parse(&text[..length]).map(Some).ok_or_else(|| io::Error::from(io::ErrorKind::InvalidData))
}

/// Of `/proc/PID/stat` (proc_pid_stat(5)).
#[derive(Debug, PartialEq, Eq)]
struct Stat {
    status: u8,
    threads: u64,
    start_time: u64,
}

impl Stat {
    /// The name in the second field may hold anything, so fields are counted from its closing parenthesis.
    fn parse(text: &[u8]) -> Option<Stat> {
        let end = text.iter().rposition(|byte| *byte == b')')?;
        let mut fields = text.get(end + 2..)?.split(|byte| *byte == b' ');
        let status = *fields.next()?.first()?;
        let mut number = |skipped| std::str::from_utf8(fields.nth(skipped)?).ok()?.parse().ok();
        Some(Stat { status, threads: number(16)?, start_time: number(1)? })
    }

    /// The first thread may have ended before the others.
    fn is_alive(&self) -> bool {
        !matches!(self.status, b'Z' | b'X') || self.threads > 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_spaces_and_parentheses_does_not_move_the_fields() {
        let text =
            b"42 (a) b (c) S 1 42 42 0 -1 4194560 1 0 0 0 1 2 0 0 20 0 1 0 98765 1000 1 18446744073709551615";
        let expected = Stat { status: b'S', threads: 1, start_time: 98765 };
        assert_eq!(Stat::parse(text), Some(expected));
        assert_eq!(Stat::parse(b"nonsense"), None);
    }

    #[test]
    fn this_process_is_alive_and_an_earlier_one_with_its_pid_is_not() {
        let own = Process::of(std::process::id() as i32).unwrap();
        assert!(own.is_alive().unwrap());
        let earlier = Process { start_time: own.start_time - 1, ..own };
        assert!(!earlier.is_alive().unwrap());
    }
}
