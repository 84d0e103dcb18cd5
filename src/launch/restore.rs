//! Conducts a restore: what a birth does around its child, this does around criu.
//!
//! Runs outside. criu restores the container's first process as a child of the runtime, and holds it still until it has
//! heard that what there is now is what the configuration says.

use std::ffi::{CStr, CString};
use std::fs;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use nix::errno::Errno;
use nix::sys::stat::stat;

use super::checkpoint::{kept, number};
use super::converse::run_hooks;
use super::opening::Slots;
use super::spawn::Child;
use super::undo::Attempt;
use super::verify;
use super::{Born, Contact, announce, claim, conclude, last_words, make_scope, write_state};
use crate::container::state::{Process, State};
use crate::container::store::Store;
use crate::container::{CONFIG, CRIU, read_config};
use crate::host::cgroup::Cgroup;
use crate::host::criu::{Criu, Workplace};
use crate::init::mounts::{Shape, make_target};
use crate::log::Log;
use crate::plan::checkpoint::{self as planned, ROOT};
use crate::plan::criu::{Kind, Notice, Request};
use crate::plan::{Action, Plan};
use crate::sys::fd::send_with_fd;
use crate::sys::mount::{Attributes, Depth, attr, set_attributes};
use crate::sys::path::open_in_root;
use crate::sys::process::{open_pidfd, signal};

/// The directory on which criu finds the root of a container whose room is `room`.
pub fn place(room: &Path) -> PathBuf {
    room.join(CRIU)
}

/// Restore a container. On an error nothing is left of it but criu's log.
pub fn restore(
    store: &Store,
    plan: &Plan,
    request: &Request,
    state: State,
    config: &[u8],
    contact: Contact,
    log: &Log,
) -> Result<Born> {
    let mut attempt = Attempt::default();
    let last_words = last_words(plan, &state);
    let outcome = Restoration { plan, request, contact, attempt: &mut attempt }.go(store, state, config);
    conclude(outcome, attempt, plan, last_words, log)
}

struct Restoration<'a> {
    plan: &'a Plan,
    request: &'a Request,
    contact: Contact,
    attempt: &'a mut Attempt,
}

impl Restoration<'_> {
    fn go(mut self, store: &Store, mut state: State, config: &[u8]) -> Result<State> {
        claim(store, self.plan, &mut state, config, self.attempt)?;
        let root = place(&store.path(&state.id));
        fs::create_dir(&root).with_context(|| format!("make directory {root:?}"))?;
        let root = CString::new(root.as_os_str().as_bytes())?;

        let slots = Slots::filled(&self.request.open, self.request.open.len())?;
        make_mount_points(self.plan, slots.get(ROOT)?)?;
        if self.plan.steps.iter().any(|step| matches!(step.action, Action::ReadOnlyRoot)) {
            // Of the root CRIU restores what is in it, and not how it is mounted.
            let read_only = Attributes { set: attr::RDONLY, ..Attributes::default() };
            set_attributes(slots.get(ROOT)?, &read_only, Depth::One).context("make the root read-only")?;
        }
        let bytes = self.request.encode(&|slot| number(&slots, slot))?;
        let criu = self.start(&slots, &root)?;
        let placed = make_scope(self.plan, &mut state, criu.pid(), self.attempt);
        let asked = placed.and_then(|()| {
            let interrupt = self.contact.interrupt.take();
            let (interrupt, needs) = (interrupt.as_ref().map(AsFd::as_fd), self.request.needs);
            let heed = |notice: &Notice, fd| self.heed(notice, fd, &mut state);
            criu.ask(&bytes, Kind::Restore, needs, interrupt, heed)
        });
        criu.end(asked, &self.request.log).map_err(|error| {
            // criu has ended what it restored, but nobody has promised that.
            match self.attempt.cgroup.as_ref().map_or(Ok(()), |cgroup| cgroup.kill()) {
                Ok(()) => error,
                Err(also) => error.context(format!("(and could not clean up: {also:#})")),
            }
        })?;
        Ok(state)
    }

    fn start(&self, slots: &Slots, root: &CStr) -> Result<Criu> {
        let cgroup = self.attempt.cgroup.as_deref();
        let keyring = self.plan.steps.iter().find_map(|step| match &step.action {
            Action::SessionKeyring { name } => Some(name.as_c_str()),
            _ => None,
        });
        // The tree is mounted, and nothing of the host's is to be found open in the container.
        let kept = kept(&self.request.open[ROOT.0 + 1..], slots)?;
        let criu = Criu::start(&Workplace {
            birthplace: cgroup.and_then(Cgroup::birthplace),
            doors: cgroup.map(Cgroup::doors).unwrap_or_default(),
            keyring,
            root: Some((slots.get(ROOT)?, root)),
            kept: &kept,
        })?;
        if let Some(group) = &self.attempt.resctrl {
            group.admit(criu.pid())?;
        }
        Ok(criu)
    }

    fn heed(&mut self, notice: &Notice, fd: Option<OwnedFd>, state: &mut State) -> Result<()> {
        match notice.script.as_str() {
            "setup-namespaces" => run_hooks(self.plan, state, notice.pid),
            "orphan-pts-master" => match (fd, self.contact.console.take()) {
                (Some(master), Some(console)) => {
                    send_with_fd(console.as_fd(), b"/dev/pts/ptmx", master.as_fd())
                        .context("send the terminal")
                }
                _ => bail!("criu has restored a terminal that nobody takes"),
            },
            "post-restore" => self.settle(notice.pid, state),
            "pre-resume" => self.check_confinement(),
            _ => Ok(()),
        }
    }

    /// What holds the process comes last, after all that can fail: criu goes on whatever we say, so we end it ourselves.
    fn check_confinement(&self) -> Result<()> {
        let child = self.attempt.child.as_ref().context("criu resumes what it has not restored")?;
        let labelled = verify::labels(self.plan, self.request, child.pid);
        labelled.and_then(|()| verify::bounds(self.plan, child.pid)).inspect_err(|_| {
            // It is ended and waited for once more when criu has let go of it.
            let _ = signal(child.pidfd.as_fd(), libc::SIGKILL);
        })
    }

    /// Everything is there, and stands still.
    fn settle(&mut self, pid: i32, state: &mut State) -> Result<()> {
        let pidfd = open_pidfd(pid).with_context(|| format!("open process {pid}"))?;
        let child = self.attempt.child.insert(Child { pid, pidfd });
        verify::mounts(self.plan, pid)?;
        if let (Some(made), Some(group)) = (&self.attempt.cgroup, &self.plan.cgroup) {
            // Not earlier: criu and its helpers needed room beside the container.
            made.set_limits(&group.limits.settings).context("config.json")?;
        }
        state.init = Some(Process::of(pid)?);
        let room = self.attempt.room.as_ref().context("a container without a room")?;
        if time_namespace(pid)? != time_namespace("self")? {
            // CRIU keeps clocks going with a time namespace, where further processes belong as well.
            let config = read_config(&room.path)?;
            room.write(CONFIG, &planned::with_time_namespace(&config)?)?;
        }
        write_state(room, state)?;
        let socket = self.contact.pidfd_socket.as_deref();
        announce(child, self.contact.pid_file.take(), socket, &mut self.attempt.pid_file)
    }
}

/// Its inode number; 0 on a kernel without time namespaces.
fn time_namespace(pid: impl std::fmt::Display) -> Result<u64> {
    match fs::metadata(format!("/proc/{pid}/ns/time")) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(0),
        file => Ok(file.with_context(|| format!("look at /proc/{pid}/ns/time"))?.ino()),
    }
}

/// criu mounts on what is there. What is missing is made as init makes it, below the root whatever is in it.
fn make_mount_points(plan: &Plan, root: BorrowedFd<'_>) -> Result<()> {
    for (inside, source) in planned::mount_points(plan)? {
        let shape = match source {
            Some(source) => Shape::of(&stat(source).with_context(|| format!("look at {source:?}"))?),
            None => Shape::Directory,
        };
        match open_in_root(root, inside, libc::O_PATH, 0) {
            Err(Errno::ENOENT) => make_target(root, inside, shape).map(drop),
            found => found.map(drop),
        }
        .with_context(|| format!("make {inside:?} in the root filesystem"))?;
    }
    Ok(())
}
