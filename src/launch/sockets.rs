//! Sockets of the caller's: the console's, the pidfd's and the seccomp agent's (contract of `runc`, one message each).
//!
//! Runs outside.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;

use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, connect, setsockopt, socket, sockopt};
use nix::sys::time::TimeVal;

use crate::container::state::State;
use crate::plan::annotations::Annotations;
use crate::plan::request::Console;
use crate::plan::seccomp::Listener;
use crate::sys::fd::send_with_fd;

/// How long a listener may leave us waiting to be accepted: longer than a busy engine needs.
const PATIENCE_S: i64 = 10;

/// What takes a terminal's master: the caller's socket, or `own` of a runtime that stays in the foreground.
pub fn console(console: &Console, own: Option<OwnedFd>) -> Result<Option<OwnedFd>> {
    let Console::Socket(path) = console else { return Ok(own) };
    connect_to("console socket", path).map(Some)
}

/// A stream to whoever listens there; EAGAIN when the queue of those who wait is full for too long (unix(7), connect(2)).
fn connect_to(what: &str, path: &Path) -> Result<OwnedFd> {
    let connected = || {
        let socket = socket(AddressFamily::Unix, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
        setsockopt(&socket, sockopt::SendTimeout, &TimeVal::new(PATIENCE_S, 0))?;
        connect(socket.as_raw_fd(), &UnixAddr::new(path)?)?;
        Ok::<_, Errno>(socket)
    };
    connected().with_context(|| format!("connect to {what} {path:?}"))
}

/// The two ends of a console socket of our own, for a runtime that stays in the foreground.
pub fn console_pair() -> Result<(OwnedFd, OwnedFd)> {
    let (ours, theirs) = UnixStream::pair().context("make a socket pair")?;
    Ok((ours.into(), theirs.into()))
}

pub fn send_pidfd(path: &Path, pidfd: BorrowedFd<'_>) -> Result<()> {
    let stream = connect_to("pidfd socket", path)?;
    send_with_fd(stream.as_fd(), b"pidfd", pidfd).with_context(|| format!("send the pidfd to {path:?}"))
}

/// Send a seccomp listener with the container's process state (config-linux.md, seccomp: the container process state).
pub fn send_listener(
    listener: &Listener,
    fd: BorrowedFd<'_>,
    state: &State,
    annotations: &Annotations,
    pid: i32,
) -> Result<()> {
    let path = &listener.path;
    let message = serde_json::json!({
        "ociVersion": state.oci_version,
        "fds": ["seccompFd"],
        "pid": pid,
        "metadata": listener.metadata,
        "state": state.for_agents(annotations, pid),
    });
    let stream = connect_to("seccomp agent", path)?;
    send_with_fd(stream.as_fd(), message.to_string().as_bytes(), fd)
        .with_context(|| format!("send the seccomp listener to {path:?}"))
}
