//! One clone, rarely two.
//!
//! Runs outside, and hands over to `init/` on the inside. The child is always a direct child of the runtime.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use anyhow::{Context, Result, bail, ensure};
use nix::errno::Errno;
use nix::sched::{CloneFlags, setns};

use super::opening::Slots;
use crate::container::DEATH_DEADLINE_MS;
use crate::container::state::{ends_within, whereabouts};
use crate::plan::{Enter, Namespace, Slot};
use crate::sys::process::{
    Side, Whom, clone_process, exit_now, is_single_threaded, open_pidfd, signal, wait,
};
use crate::wire::{self, Note, Report};

/// A process that we have made and have not waited for, so its pid is nobody else's.
#[derive(Debug)]
pub struct Child {
    pub pid: i32,
    pub pidfd: OwnedFd,
}

/// Clone the child that runs `inside`, which does not come back.
pub fn spawn(
    enter: &Enter,
    slots: Slots,
    birthplace: Option<BorrowedFd<'_>>,
    inside: impl FnOnce(Slots),
) -> Result<Child> {
    ensure!(
        is_single_threaded().context("count our threads")?,
        "corten has threads, so it cannot clone safely"
    );
    if enter.stand_in {
        return clone_by_stand_in(enter, slots, birthplace, inside);
    }
    let mut away = Away::default();
    let clone = || {
        for (kind, slot) in &enter.ahead {
            away.enter(*kind, slots.get(*slot)?)?;
        }
        clone_child(enter.clone, birthplace, || inside(slots))
    };
    let child = clone();
    // Whatever became of the child: what is undone now, or done later, is done in our own namespaces.
    match (child, away.return_home()) {
        (Ok(child), Err(error)) => {
            child.end()?;
            Err(error)
        }
        (child, _) => child,
    }
}

impl Child {
    /// Kill it and wait for it.
    pub fn end(&self) -> Result<()> {
        match signal(self.pidfd.as_fd(), libc::SIGKILL) {
            Ok(()) | Err(Errno::ESRCH) => {}
            Err(error) => return Err(error).with_context(|| format!("kill process {}", self.pid)),
        }
        if !ends_within(&self.pidfd, DEATH_DEADLINE_MS)? {
            bail!("process {} was killed and is still there: it {}", self.pid, whereabouts(self.pid));
        }
        match wait(Whom::Process(self.pidfd.as_fd()), true) {
            // It may have been waited for: the foreground does, and an obituary.
            Ok(_) | Err(Errno::ECHILD) => Ok(()),
            Err(error) => Err(error).with_context(|| format!("wait for process {}", self.pid)),
        }
    }
}

/// Namespaces that we have entered for the sake of a child, and the ways back.
#[derive(Default)]
struct Away(Vec<(Namespace, OwnedFd)>);

impl Away {
    fn enter(&mut self, kind: Namespace, namespace: BorrowedFd<'_>) -> Result<()> {
        let path = format!("/proc/self/ns/{}", kind.kind().file);
        let own = std::fs::File::open(&path).with_context(|| format!("open {path}"))?;
        setns(namespace, CloneFlags::from_bits_retain(kind.flag()))
            .with_context(|| format!("join the {} namespace", kind.name()))?;
        self.0.push((kind, own.into()));
        Ok(())
    }

    /// From all of them; the first that cannot be left is the error.
    fn return_home(self) -> Result<()> {
        let back = |(kind, own): &(Namespace, OwnedFd)| {
            setns(own, CloneFlags::from_bits_retain(kind.flag()))
                .with_context(|| format!("return to our own {} namespace", kind.name()))
        };
        let ways: Vec<Result<()>> = self.0.iter().rev().map(back).collect();
        ways.into_iter().collect()
    }
}

fn clone_child(flags: u64, birthplace: Option<BorrowedFd<'_>>, inside: impl FnOnce()) -> Result<Child> {
    match clone_process(flags, birthplace) {
        Ok(Side::Child) => {
            inside();
            exit_now(1)
        }
        Ok(Side::Parent { pid, pidfd }) => Ok(Child { pid, pidfd }),
        Err(error) => Err(error).context(clone_hint(error)),
    }
}

fn clone_hint(error: Errno) -> &'static str {
    match error {
        Errno::ENOSPC | Errno::EUSERS => {
            "make the namespaces (is one of the limits in /proc/sys/user reached?)"
        }
        Errno::EPERM => "make the namespaces (may this user make user namespaces?)",
        // Of a group that a user may write to, but not to the one above both it and the user's own (cgroups(7)).
        Errno::EACCES => {
            "make a process in its cgroup, which this user may not enter from here: call from a delegated one, as \
             `systemd-run --user --scope` gives, or create containers with --systemd-cgroup"
        }
        Errno::EBUSY | Errno::EOPNOTSUPP => {
            "make a process in its cgroup (does the cgroup have cgroups below it?)"
        }
        _ => "make a process",
    }
}

/// Nobody comes back from a user namespace, nor from another's to one that a user namespace above owns.
/// So a stand-in goes, and clones init as its own sister.
fn clone_by_stand_in(
    enter: &Enter,
    slots: Slots,
    birthplace: Option<BorrowedFd<'_>>,
    inside: impl FnOnce(Slots),
) -> Result<Child> {
    let (ours, theirs) = wire::pair().context("make a socket pair")?;
    let stand_in = clone_child(0, birthplace, || {
        let enter_one = |(kind, slot): &(Namespace, Slot)| {
            let namespace = slots.get(*slot).map_err(|_| Errno::EBADF)?;
            setns(namespace, CloneFlags::from_bits_retain(kind.flag()))
        };
        let born = enter
            .ahead
            .iter()
            .try_for_each(enter_one)
            .and_then(|()| clone_process(enter.clone | libc::CLONE_PARENT as u64, None));
        let report = match born {
            Ok(Side::Child) => {
                inside(slots);
                exit_now(1)
            }
            Ok(Side::Parent { pid, .. }) => Report::Born { pid },
            Err(error) => Report::Failed { step: 0, errno: error as i32, note: Note::EMPTY },
        };
        // A parent that is gone needs no report.
        let _ = wire::send(theirs.as_fd(), &report);
        exit_now(0)
    })?;
    drop(theirs);
    let report = wire::receive(ours.as_fd()).context("hear from the stand-in");
    stand_in.end()?;
    match report? {
        Some(Report::Born { pid }) => match open_pidfd(pid) {
            Ok(pidfd) => Ok(Child { pid, pidfd }),
            Err(error) => {
                disown(pid)?;
                Err(error).with_context(|| format!("open process {pid}"))
            }
        },
        Some(Report::Failed { errno, .. }) => {
            let error = Errno::from_raw(errno);
            Err(error).context(clone_hint(error))
        }
        _ => bail!("the stand-in died before it could make the first process"),
    }
}

/// End a child that we have no handle on. It has not been waited for, so its pid is its own.
fn disown(pid: i32) -> Result<()> {
    use nix::sys::{signal, wait};
    let pid = nix::unistd::Pid::from_raw(pid);
    signal::kill(pid, signal::Signal::SIGKILL).with_context(|| format!("kill process {pid}"))?;
    wait::waitpid(pid, None).with_context(|| format!("wait for process {pid}")).map(drop)
}
