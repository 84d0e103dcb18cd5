//! The child's walk through the steps of a plan.
//!
//! Runs inside, from the clone to execve(2). Executes only: it parses no configuration and decides nothing that a plan
//! could have decided; what only the container's root can tell (`HOME`, the program in `PATH`) is a step. On the first
//! error it says which step and errno, and is gone.

#![deny(clippy::disallowed_methods, clippy::disallowed_macros)]
#![deny(clippy::expect_used, clippy::panic, clippy::unwrap_used)]

mod confine;
mod copy;
mod devices;
mod hooks;
pub mod mounts;
mod namespaces;
mod process;
mod rootfs;

use std::ffi::CString;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

use nix::errno::Errno;
use nix::sys::resource::setrlimit;

use crate::plan::{Action, HookStreams, Slot, Step};
use crate::sys::fd::{close_all_but, close_on_exec_from, write_once};
use crate::sys::process::{Image, exit_now, restore_signals};
use crate::sys::procfs::Procfs;
use crate::sys::stamps::Stamps;
use crate::wire::{self, HookEnd, Note, Report};

/// What the parent hands to its child: descriptors opened before the clone.
pub struct Birthright<'a> {
    pub slots: Vec<Option<OwnedFd>>,
    /// Every v1 hierarchy's `tasks`.
    pub doors: &'a [OwnedFd],
    pub conversation: OwnedFd,
    pub procfs: Option<Procfs>,
    pub gate: Option<Gate>,
    /// Where a terminal's master is sent.
    pub console: Option<OwnedFd>,
    /// The caller's own descriptors are those below this one.
    pub first: u32,
    /// When this process was born and when each step was done, for a parent who wants to know.
    pub stamps: Option<Stamps>,
}

/// Init's side of the start gate: `go` tells it to go on, `outcome` hears what came of it.
pub struct Gate {
    pub go: OwnedFd,
    pub outcome: OwnedFd,
}

/// Why a step is impossible.
pub enum Failure {
    Step(Errno, Note),
    Hook(u32, HookEnd, Note),
}

impl From<Errno> for Failure {
    fn from(errno: Errno) -> Failure {
        Failure::Step(errno, Note::EMPTY)
    }
}

type Outcome = Result<(), Failure>;

/// The state of the walk.
struct Init<'a> {
    given: Birthright<'a>,
    /// The container's root: a mount's descriptor until the pivot, and the same after it.
    root: Option<OwnedFd>,
    /// How mounts from outside propagate when they arrive (`MS_SLAVE`, `MS_PRIVATE`, or 0 for as they are).
    propagation: u64,
    mask: rootfs::Mask,
    /// Where the last step made a device or a link, which the next may do as well.
    workplace: Option<devices::Workplace<'a>>,
    /// The index of the candidate that can be executed.
    executable: usize,
    /// The first attempt to enter the working directory has succeeded.
    in_place: bool,
    candidates: &'a [CString],
    /// Made before the filter, which may refuse memory.
    image: Image<'a>,
    started: bool,
}

/// Take every step; the last is execve(2).
pub fn walk(steps: &[Step], given: Birthright<'_>) -> ! {
    let (arguments, environment): (&[CString], &[CString]) = match steps.last().map(|step| &step.action) {
        Some(Action::Exec { arguments, environment }) => (arguments, environment),
        _ => (&[], &[]),
    };
    let mut init = Init {
        given,
        root: None,
        propagation: 0,
        mask: rootfs::Mask::default(),
        workplace: None,
        executable: 0,
        in_place: false,
        candidates: &[],
        image: Image::new(arguments, environment),
        started: false,
    };
    nix::sys::stat::umask(nix::sys::stat::Mode::empty());
    // The runtime in the foreground holds signals back, and so would the program.
    if let Err(error) = restore_signals() {
        init.tell(0, error.into());
        exit_now(1);
    }
    init.stamp(0);
    for (number, step) in steps.iter().enumerate() {
        if let Err(failure) = init.take(number as u32, &step.action) {
            init.tell(number as u32, failure);
            exit_now(1);
        }
        init.stamp(number + 1);
    }
    exit_now(1)
}

impl<'a> Init<'a> {
    fn stamp(&self, number: usize) {
        if let Some(stamps) = self.given.stamps {
            stamps.put(number);
        }
    }

    fn take(&mut self, number: u32, action: &'a Action) -> Outcome {
        // Any other step may put something else in its place.
        if !matches!(action, Action::Device { .. } | Action::Symlink { .. }) {
            self.workplace = None;
        }
        match action {
            Action::EnterCgroups => self.enter_cgroups(),
            Action::Join { kind, slot } => self.join(*kind, *slot),
            Action::JoinProcess { slot, flags } => self.join_process(*slot, *flags),
            Action::Unshare { flags } => namespaces::unshare(*flags),
            Action::TimeOffsets { text } => self.time_offsets(text),
            Action::Report(_) => self.report(number),
            Action::TakeRoot => namespaces::take_root(),
            Action::Undumpable => Ok(crate::sys::process::set_undumpable()?),
            Action::Dumpable => {
                crate::sys::process::wipe_environment();
                Ok(crate::sys::process::set_dumpable()?)
            }
            Action::ParentDeath { signal } => Ok(crate::sys::process::set_parent_death_signal(*signal)?),
            Action::Home { uid } => self.home(*uid),
            Action::SessionKeyring { name } => namespaces::session_keyring(name),
            Action::LoopbackUp => Ok(crate::sys::namespace::loopback_up()?),

            Action::OpenTree { slot, source, recursive, follow, .. } => {
                self.open_tree(*slot, source, *recursive, *follow)
            }
            Action::MountRoot { slot, path, propagation } => self.mount_root(*slot, path, *propagation),
            Action::Mount(mount) => self.mount(mount),
            Action::Device { inside, kind, major, minor, mode, uid, gid, .. } => {
                self.device(inside, *kind, (*major, *minor), *mode, (*uid, *gid))
            }
            Action::Symlink { inside, to, replace } => self.symlink(inside, to, *replace),
            Action::Terminal { size, owner, console } => self.terminal(*size, *owner, *console),
            Action::ReopenNull => self.reopen_null(),
            Action::Hooks { hooks, state, streams, .. } => self.hooks(hooks, state, *streams),
            Action::Sysctl { path, value } => self.sysctl(path, value),
            Action::ReadOnlyPath { inside } => self.read_only_path(inside),
            Action::Mask { inside } => self.mask(inside),
            Action::ReadOnlyMount { slot } => self.read_only_mount(*slot),
            Action::ReadOnlyRoot => self.read_only_root(),
            Action::MakeDirectory { inside, mode } => self.make_directory(inside, *mode),
            Action::Pivot => self.pivot(),
            Action::MoveRoot => self.move_root(),
            Action::Chroot => self.chroot(),
            Action::RootPropagation { flags } => self.root_propagation(*flags),

            Action::Session => Ok(nix::unistd::setsid().map(drop)?),
            Action::Hostname { name } => Ok(crate::sys::process::set_hostname(name)?),
            Action::Domainname { name } => Ok(crate::sys::process::set_domainname(name)?),
            Action::Label { file, text } => self.label(file, text),
            Action::Rlimit { resource, soft, hard } => Ok(setrlimit(*resource, *soft, *hard)?),
            Action::Scheduler(attributes) => process::scheduler(attributes),
            Action::IoPriority { value } => Ok(crate::sys::process::set_io_priority(*value)?),
            Action::Personality { value } => Ok(crate::sys::process::set_personality(*value)?),
            Action::MemoryPolicy { mode, nodes } => Ok(crate::sys::process::set_memory_policy(*mode, nodes)?),
            Action::Affinity { mask } => Ok(crate::sys::process::set_affinity(mask)?),
            Action::NoNewPrivileges => Ok(crate::sys::process::set_no_new_privileges()?),
            Action::CloseDescriptors { from, keep } => self.close_descriptors(*from, *keep),
            Action::Seccomp { filter, .. } => self.seccomp(number, filter),
            Action::SetUser { uid, gid, groups } => process::set_user(*uid, *gid, groups.as_deref()),
            Action::Umask { mask } => process::umask(*mask),
            Action::Capabilities(sets) => process::capabilities(sets),
            Action::WorkingDirectory { path, again } => self.working_directory(path, *again),
            Action::FindExecutable { candidates, in_path } => self.find_executable(candidates, *in_path),
            Action::WaitStart => self.wait_start(),
            Action::Exec { .. } => self.execute(),
        }
    }

    /// The parent hears of a failure, or `start` does, once it has opened the gate.
    fn tell(&self, step: u32, failure: Failure) {
        let report = match failure {
            Failure::Step(errno, note) => Report::Failed { step, errno: errno as i32, note },
            Failure::Hook(hook, how, said) => Report::HookFailed { step, hook, how, said },
        };
        let listener = match &self.given.gate {
            Some(gate) if self.started => gate.outcome.as_fd(),
            _ => self.given.conversation.as_fd(),
        };
        // Whoever does not listen any more has seen us end.
        let _ = wire::send(listener, &report);
    }

    fn report(&mut self, step: u32) -> Outcome {
        wire::send(self.given.conversation.as_fd(), &Report::Reached { step })?;
        wire::await_grant(self.given.conversation.as_fd())?;
        Ok(())
    }

    /// One byte through `go` is the leave to go on. We hold a writing end as well, so it never reads as closed.
    fn wait_start(&mut self) -> Outcome {
        let gate = self.given.gate.as_ref().ok_or(Errno::EBADF)?;
        loop {
            match nix::unistd::read(&gate.go, &mut [0; 1]) {
                Err(Errno::EINTR) => {}
                Err(error) => return Err(error.into()),
                Ok(_) => break,
            }
        }
        self.started = true;
        Ok(())
    }

    /// A lone thread that moves itself takes no lock that others wait for (`cgroup.procs` would).
    fn enter_cgroups(&mut self) -> Outcome {
        for door in std::mem::take(&mut self.given.doors) {
            write_once(door.as_fd(), b"0")?;
        }
        self.close_the_rest()
    }

    /// CVE-2024-21626: a clone copies all that the parent has open (its end of our conversation, the container's lock,
    /// its log, directories of the host's cgroups). What is not ours goes before anybody can see us.
    fn close_the_rest(&self) -> Outcome {
        let given = &self.given;
        let gate = given.gate.iter().flat_map(|gate| [&gate.go, &gate.outcome]);
        let singles = [Some(&given.conversation), given.console.as_ref()];
        let owned = given.slots.iter().flatten().chain(singles.into_iter().flatten()).chain(gate);
        let borrowed = given.procfs.iter().map(AsFd::as_fd);
        let mut kept: Vec<RawFd> = owned.map(AsFd::as_fd).chain(borrowed).map(|fd| fd.as_raw_fd()).collect();
        kept.sort_unstable();
        Ok(close_all_but(given.first, &kept)?)
    }

    /// CVE-2024-21626: a directory of the host that is still open is a way out, for the working directory and for the
    /// program's path alike, so closing it on execve(2) would be too late. Only the conversation and the gate end then,
    /// which is what their other ends wait for.
    fn close_descriptors(&mut self, from: u32, keep: HookStreams) -> Outcome {
        for (number, slot) in self.given.slots.iter_mut().enumerate() {
            let number = Some(Slot(number));
            if number != keep.stdout && number != keep.stderr {
                *slot = None;
            }
        }
        self.given.console = None;
        self.given.procfs = None;
        self.mask = rootfs::Mask::default();
        self.root = None;
        Ok(close_on_exec_from(from)?)
    }

    /// The host's procfs, until [`Init::close_descriptors`].
    fn procfs(&self) -> Result<&Procfs, Errno> {
        self.given.procfs.as_ref().ok_or(Errno::EBADF)
    }

    fn slot(&self, slot: Slot) -> Result<BorrowedFd<'_>, Errno> {
        self.given.slots.get(slot.0).and_then(Option::as_ref).map(AsFd::as_fd).ok_or(Errno::EBADF)
    }

    fn fill(&mut self, slot: Slot, fd: OwnedFd) -> Outcome {
        *self.given.slots.get_mut(slot.0).ok_or(Errno::EBADF)? = Some(fd);
        Ok(())
    }

    fn root(&self) -> Result<BorrowedFd<'_>, Errno> {
        self.root.as_ref().map(AsFd::as_fd).ok_or(Errno::EBADF)
    }
}
