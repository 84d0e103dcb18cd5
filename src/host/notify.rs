//! Readiness (sd_notify(3)): hands on to the service manager what the container's process says of itself.
//!
//! Runs outside, in whoever waits for the container anyway: `run` for its whole life, `start` until it is ready. A
//! service manager believes a process of the service's own, so the words go out under our name; and a container is not
//! to speak of processes and descriptors of the host's, so only words about itself do.

use std::ffi::OsString;
use std::fs::{self, DirBuilder, Permissions};
use std::io::ErrorKind;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockType, UnixAddr};
use nix::sys::socket::{bind, connect, send, setsockopt, socket, sockopt};
use nix::sys::time::TimeVal;
use nix::unistd::pipe2;

use crate::log::Log;
use crate::plan::notify;
use crate::sys::fd::{receive_fd, send_with_fd};
use crate::sys::strerror;

/// What a container may say (sd_notify(3)), and what it may not: `MAINPID`, `NOTIFYACCESS`, and all about descriptors.
const WORDS: &[&str] = &[
    "BUSERROR",
    "ERRNO",
    "EXTEND_TIMEOUT_USEC",
    "MONOTONIC_USEC",
    "READY",
    "RELOADING",
    "STATUS",
    "STOPPING",
    "WATCHDOG",
    "WATCHDOG_USEC",
    "X_SYSTEMD_EXIT_STATUS",
];

/// As long as the service manager lets a message be (PIPE_BUF).
const LONGEST: usize = 4096;

/// How many messages of a container that has ended are handed on: no more fit into a socket (`max_dgram_qlen`, unix(7)).
const LAST_WORDS: usize = 512;

/// How long a service manager may take to hear us.
const PATIENCE_S: u16 = 5;

/// The caller's service manager, if it has one that listens on a socket file or in the abstract namespace.
pub fn manager() -> Option<OsString> {
    std::env::var_os("NOTIFY_SOCKET").filter(|address| matches!(address.as_bytes(), [b'/' | b'@', _, ..]))
}

/// Make the directory that the container is to see.
pub fn prepare(room: &Path) -> Result<()> {
    let path = notify::directory(room);
    let make = || {
        DirBuilder::new().create(&path)?;
        // Whoever the process is; the umask is the caller's.
        fs::set_permissions(&path, Permissions::from_mode(0o755))
    };
    make().with_context(|| format!("make directory {path:?}"))
}

/// Take away what is in that directory.
pub fn remove(room: &Path) -> Result<()> {
    let path = notify::socket(room);
    match fs::remove_file(&path) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(error).with_context(|| format!("remove {path:?}"))
        }
        _ => Ok(()),
    }
}

/// What a message was.
#[derive(PartialEq, Eq)]
pub enum Heard {
    Nothing,
    Words,
    Ready,
}

/// Both ends: the container speaks to one, the service manager listens at the other.
pub struct Notify<'a> {
    inside: OwnedFd,
    manager: OwnedFd,
    log: &'a Log,
}

impl<'a> Notify<'a> {
    /// Listen for the container in this room. Its program must not have begun. Where no manager listens nobody does.
    pub fn listen(room: &Path, manager: &OsString, log: &'a Log) -> Result<Option<Notify<'a>>> {
        let connected = match connect_to(manager) {
            Ok(connected) => connected,
            Err(error) => {
                log.warn(&format!("connect to NOTIFY_SOCKET {manager:?}: {error:#}"));
                return Ok(None);
            }
        };
        // What a `start` that failed has left.
        remove(room)?;
        let path = notify::socket(room);
        let inside = bind_at(room).with_context(|| format!("listen on {path:?}"))?;
        fs::set_permissions(&path, Permissions::from_mode(0o777))
            .with_context(|| format!("open {path:?} to everybody"))?;
        Ok(Some(Notify { inside, manager: connected, log }))
    }

    /// Readable when there is something to [`Self::relay`].
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.inside.as_fd()
    }

    /// Hand on one message, if there is one. When the container says that it is ready, the service manager is told
    /// as well that `main_pid` is the process to watch.
    pub fn relay(&self, main_pid: i32) -> Result<Heard> {
        let mut buffer = [0; LONGEST];
        let (length, fd) = match receive_fd(self.inside.as_fd(), &mut buffer) {
            Err(Errno::EAGAIN | Errno::EINTR) => return Ok(Heard::Nothing),
            result => result.context("hear from the container")?,
        };
        let said = &buffer[..length];
        if let (b"BARRIER=1", Some(fd)) = (said, fd) {
            // It closes when all that went before has been heard, and its owner waits for that.
            self.told(send_with_fd(self.manager.as_fd(), said, fd.as_fd()));
            return Ok(Heard::Words);
        }
        let (mut words, ready) = allowed(said);
        if ready {
            words.extend_from_slice(format!("MAINPID={main_pid}\n").as_bytes());
        }
        if !words.is_empty() {
            let sent = send(self.manager.as_raw_fd(), &words, MsgFlags::MSG_NOSIGNAL);
            self.told(sent.map(drop));
        }
        Ok(if ready { Heard::Ready } else { Heard::Words })
    }

    /// Hand on what a container said before its end.
    pub fn drain(&self, main_pid: i32) -> Result<()> {
        for _ in 0..LAST_WORDS {
            if self.relay(main_pid)? == Heard::Nothing {
                break;
            }
        }
        Ok(())
    }

    /// Hand on until the container says that it is ready, or has ended.
    pub fn until_ready(&self, init: BorrowedFd<'_>, main_pid: i32) -> Result<()> {
        loop {
            let mut fds = [self.inside.as_fd(), init].map(|fd| PollFd::new(fd, PollFlags::POLLIN));
            match poll(&mut fds, PollTimeout::NONE) {
                Err(Errno::EINTR) => continue,
                result => result.context("wait until the container is ready")?,
            };
            let [said, ended] = fds.map(|fd| fd.revents().is_some_and(|events| !events.is_empty()));
            if said && self.relay(main_pid)? == Heard::Ready {
                return self.barrier();
            }
            if ended && !said {
                return Ok(());
            }
        }
    }

    /// Wait until all that we have said was heard: a service manager does not know a sender that is gone.
    fn barrier(&self) -> Result<()> {
        let (reader, writer) = pipe2(OFlag::O_CLOEXEC).context("make a pipe")?;
        self.told(send_with_fd(self.manager.as_fd(), b"BARRIER=1", writer.as_fd()));
        drop(writer);
        let mut fds = [PollFd::new(reader.as_fd(), PollFlags::POLLIN)];
        if poll(&mut fds, PATIENCE_S * 1000).context("wait for the service manager")? == 0 {
            self.log.warn(&format!(
                "the service manager has not heard in {PATIENCE_S} s that the container is ready"
            ));
        }
        Ok(())
    }

    /// The container is none the worse for a service manager that does not listen.
    fn told(&self, result: Result<(), Errno>) {
        if let Err(error) = result {
            self.log.warn(&format!("tell the service manager: {}", strerror(error)));
        }
    }
}

/// The lines that may pass, and whether the container is ready.
fn allowed(said: &[u8]) -> (Vec<u8>, bool) {
    let mut words = Vec::new();
    let mut ready = false;
    for line in said.split(|byte| *byte == b'\n') {
        let name = line.split(|byte| *byte == b'=').next().unwrap_or_default();
        if line.len() > name.len() && WORDS.iter().any(|word| word.as_bytes() == name) {
            ready |= line == b"READY=1";
            words.extend_from_slice(line);
            words.push(b'\n');
        }
    }
    (words, ready)
}

fn datagram_socket() -> Result<OwnedFd, Errno> {
    socket(AddressFamily::Unix, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)
}

fn connect_to(address: &OsString) -> Result<OwnedFd, Errno> {
    let address = match address.as_bytes() {
        [b'@', name @ ..] => UnixAddr::new_abstract(name)?,
        path => UnixAddr::new(path)?,
    };
    let fd = datagram_socket()?;
    connect(fd.as_raw_fd(), &address)?;
    // Signals wait for us meanwhile.
    setsockopt(&fd, sockopt::SendTimeout, &TimeVal::new(PATIENCE_S.into(), 0))?;
    Ok(fd)
}

/// Through a descriptor: a socket's path may have 107 bytes, a room's may have more.
fn bind_at(room: &Path) -> Result<OwnedFd> {
    let path = notify::socket(room);
    let directory = fs::File::open(notify::directory(room))?;
    let mut short = OsString::from_vec(format!("/proc/self/fd/{}/", directory.as_raw_fd()).into_bytes());
    short.push(path.file_name().unwrap_or_default());
    let fd = datagram_socket()?;
    bind(fd.as_raw_fd(), &UnixAddr::new(short.as_bytes())?)?;
    Ok(fd)
}

#[cfg(test)]
mod tests {
    use super::allowed;

    #[test]
    fn a_container_speaks_of_itself_and_of_nothing_else() {
        let table: &[(&str, &str, bool)] = &[
            ("READY=1", "READY=1\n", true),
            ("STATUS=up\nREADY=1\nMAINPID=1\n", "STATUS=up\nREADY=1\n", true),
            ("READY=0", "READY=0\n", false),
            ("MAINPID=1\nNOTIFYACCESS=all\nFDSTORE=1\nBARRIER=1", "", false),
            ("READY\nREADYING=1\n=\nSTATUS=READY=1", "STATUS=READY=1\n", false),
            ("", "", false),
        ];
        for (said, words, ready) in table {
            let (passed, is_ready) = allowed(said.as_bytes());
            assert_eq!((String::from_utf8(passed).unwrap().as_str(), is_ready), (*words, *ready), "{said:?}");
        }
    }
}
