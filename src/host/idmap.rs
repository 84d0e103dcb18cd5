//! Id maps of user namespaces (user_namespaces(7)). Runs outside: the mapped side may not write its own.

use std::ffi::{CStr, CString};
use std::fmt::Write;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;

use anyhow::{Context, Result, bail};
use nix::errno::Errno;

use crate::plan::{IdMapping, Outside};
use crate::sys::path::open_namespace;
use crate::sys::process::{Ended, Side, Whom, clone_process, exit_now, signal, wait};
use crate::sys::procfs::Procfs;
use crate::sys::program::{self, Outcome, Program};
use crate::sys::strerror;

/// Give the child's new user namespace its maps.
pub fn write(pid: i32, outside: &Outside) -> Result<()> {
    if outside.uid_map.is_empty() && outside.gid_map.is_empty() {
        return Ok(());
    }
    if outside.map_with_helpers {
        run_helper("newuidmap", pid, &outside.uid_map, "/etc/subuid")?;
        return run_helper("newgidmap", pid, &outside.gid_map, "/etc/subgid");
    }
    let procfs = Procfs::open().context("open /proc")?;
    if outside.deny_setgroups {
        write_file(&procfs, pid, "setgroups", "deny")?;
    }
    write_file(&procfs, pid, "gid_map", &lines(&outside.gid_map))?;
    write_file(&procfs, pid, "uid_map", &lines(&outside.uid_map))
}

fn write_file(procfs: &Procfs, pid: i32, name: &str, text: &str) -> Result<()> {
    let intent = || format!("write {:?} to /proc/{pid}/{name}", text.trim_end());
    let path = CString::new(format!("{pid}/{name}")).with_context(intent)?;
    procfs.write(&path, text.as_bytes()).with_context(intent)
}

/// The kernel's text: inside, outside and count on each line.
fn lines(map: &[IdMapping]) -> String {
    let mut text = String::new();
    for IdMapping { inside, outside, count } in map {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{inside} {outside} {count}");
    }
    text
}

/// An unprivileged user may map more than its own id through newuidmap(1) and newgidmap(1) alone.
fn run_helper(name: &str, pid: i32, map: &[IdMapping], file: &str) -> Result<()> {
    let path = program::find(name)
        .with_context(|| format!("{name} is not in PATH: install the package that has it (uidmap)"))?;
    let mut arguments = vec![name.to_string(), pid.to_string()];
    for entry in map {
        arguments.extend([entry.inside, entry.outside, entry.count].map(|number| number.to_string()));
    }
    let arguments: Result<Vec<CString>, _> = arguments.into_iter().map(CString::new).collect();
    let words = program::memory_file().context("make a memory file")?;
    let outcome = program::run(&Program {
        path: &CString::new(path.as_os_str().as_bytes()).context("a path with a NUL byte")?,
        arguments: &arguments.context("an argument with a NUL byte")?,
        environment: &[],
        input: &[],
        stdout: Some(words.as_fd()),
        stderr: Some(words.as_fd()),
        timeout_ms: None,
    })
    .with_context(|| format!("run {name}"))?;
    match outcome {
        Outcome::Ended(Ended::Exited(0)) => Ok(()),
        Outcome::NotStarted(errno) => bail!("execute {path:?}: {}", strerror(errno)),
        _ => {
            let words = String::from_utf8_lossy(&program::last_words(&words)).trim().replace('\n', ", ");
            bail!("{name} refused the map: does {file} give these ids to this user? ({words})")
        }
    }
}

/// A user namespace with these maps and nobody in it, for an idmapped mount (mount_setattr(2)).
pub fn user_namespace(uids: &[IdMapping], gids: &[IdMapping]) -> Result<OwnedFd> {
    let (pid, pidfd) = match clone_process(libc::CLONE_NEWUSER as u64, None) {
        Ok(Side::Child) => {
            nix::unistd::pause();
            exit_now(0)
        }
        Ok(Side::Parent { pid, pidfd }) => (pid, pidfd),
        Err(error) => return Err(error).context("make a user namespace for an idmapped mount"),
    };
    let made = map_and_open(pid, uids, gids);
    match signal(pidfd.as_fd(), libc::SIGKILL) {
        Ok(()) | Err(Errno::ESRCH) => {}
        Err(error) => return Err(error).context("end the process that held a user namespace"),
    }
    match wait(Whom::Process(pidfd.as_fd()), true) {
        // The caller may ignore SIGCHLD; then the kernel has waited for us.
        Ok(_) | Err(Errno::ECHILD) => made,
        Err(error) => Err(error).context("wait for the process that held a user namespace"),
    }
}

fn map_and_open(pid: i32, uids: &[IdMapping], gids: &[IdMapping]) -> Result<OwnedFd> {
    let procfs = Procfs::open().context("open /proc")?;
    write_file(&procfs, pid, "gid_map", &lines(gids))?;
    write_file(&procfs, pid, "uid_map", &lines(uids))?;
    let directory = CString::new(format!("{pid}/ns")).context("a path with a NUL byte")?;
    let namespaces = procfs
        .file(&directory, libc::O_PATH | libc::O_DIRECTORY)
        .with_context(|| format!("open /proc/{pid}/ns"))?;
    const USER: &CStr = c"user";
    open_namespace(namespaces.as_fd(), USER).with_context(|| format!("open /proc/{pid}/ns/user"))
}
