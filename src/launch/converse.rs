//! The parent's part of the conversation: does what a step needs from outside, and puts a failed step into words.
//!
//! Runs outside, between the clone and the child's own program.

use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use anyhow::{Context, Error, Result, anyhow, bail, ensure};
use nix::errno::Errno;

use super::sockets;
use super::spawn::Child;
use crate::container::DEATH_DEADLINE_MS;
use crate::container::state::{State, ends_within};
use crate::host::netdev::{self, Moved};
use crate::host::{hooks, idmap, oom};
use crate::plan::{Action, Hook, HookPoint, Moment, Outside, Plan, Step, confinement};
use crate::sys::process::{Ended, Whom, signal, wait};
use crate::sys::strerror;
use crate::timing;
use crate::wire::{self, HookEnd, Note, Report};

pub struct Conversation<'a> {
    pub plan: &'a Plan,
    pub child: &'a Child,
    pub state: &'a State,
    pub socket: OwnedFd,
    /// Readable when the caller does not want to wait any longer.
    pub interrupt: Option<BorrowedFd<'a>>,
}

impl Conversation<'_> {
    /// Serve the child until nothing but its start is left. Network devices that it was given are in `moved`.
    pub fn until_ready(&self, moved: &mut Option<Moved>) -> Result<()> {
        let Outside { oom_score_adj, oom_score_by_birth, .. } = self.plan.outside;
        if let Some(score) = oom_score_adj.filter(|_| !oom_score_by_birth) {
            oom::set_score(self.child.pid, score)?;
        }
        let mut courier = None;
        loop {
            match self.receive(courier.as_ref())? {
                Some((Report::Reached { step }, _)) => match self.moment(step)? {
                    // It was, before anybody listened.
                    Moment::Placed => {}
                    Moment::Entered => self.equip(moved)?,
                    Moment::Assembled => run_hooks(self.plan, self.state, self.child.pid)?,
                    Moment::Ready => return Ok(()),
                },
                Some((Report::Courier { .. }, mut fds)) => {
                    courier = fds.pop();
                    continue;
                }
                Some((Report::Listener { step }, fds)) => {
                    self.forward_listener(step, fds, courier.take())?;
                }
                Some((report, _)) => return Err(self.refusal(report)),
                None => return Err(self.obituary()),
            }
            self.let_go()?;
        }
    }

    /// The child is in its namespaces: what they need from outside.
    fn equip(&self, moved: &mut Option<Moved>) -> Result<()> {
        let outside = &self.plan.outside;
        idmap::write(self.child.pid, outside)?;
        match outside.net_devices.as_slice() {
            [] => Ok(()),
            devices => netdev::give(self.child.pidfd.as_fd(), self.child.pid, devices, moved),
        }
    }

    pub fn let_go(&self) -> Result<()> {
        wire::grant(self.socket.as_fd()).context("tell the child to go on")
    }

    /// The socket closes when the child executes its program, or fails to with a word on it.
    pub fn until_executed(&self) -> Result<()> {
        match self.receive(None)? {
            None => Ok(()),
            Some((report, _)) => Err(self.refusal(report)),
        }
    }

    /// What the child, or its courier, says next. The child cannot hear of the courier's end, so it is looked for here.
    fn receive(&self, courier: Option<&OwnedFd>) -> Result<Option<(Report, Vec<OwnedFd>)>> {
        let socket = self.socket.as_fd();
        let ends = [
            (self.interrupt, wire::INTERRUPTED),
            (
                courier.map(AsFd::as_fd),
                "linux.seccomp: who was to bring the listener out of the container was killed",
            ),
        ];
        let (fds, words): (Vec<_>, Vec<_>) =
            ends.into_iter().filter_map(|(fd, words)| Some((fd?, words))).unzip();
        match wire::wait_unless(socket, &fds).context("hear from the child")? {
            Some(end) => bail!(words[end]),
            None => wire::receive_with_fds(socket).context("hear from the child"),
        }
    }

    fn step(&self, number: u32) -> Result<&Step> {
        self.plan.steps.get(number as usize).with_context(|| format!("the child speaks of a step {number}"))
    }

    fn moment(&self, step: u32) -> Result<Moment> {
        match self.step(step)?.action {
            Action::Report(moment) => Ok(moment),
            _ => bail!("the child waits at step {step}, which is not a meeting point"),
        }
    }

    fn forward_listener(&self, step: u32, fds: Vec<OwnedFd>, courier: Option<OwnedFd>) -> Result<()> {
        let Action::Seccomp { filter, .. } = &self.step(step)?.action else {
            bail!("the child has a seccomp listener at step {step}, which loads no filter");
        };
        let listener = filter.listener.as_ref().context("a seccomp listener that nobody asked for")?;
        let [fd] = <[OwnedFd; 1]>::try_from(fds)
            .map_err(|fds| anyhow!("a seccomp listener came as {} descriptors", fds.len()))?;
        await_end(&courier.context("a seccomp listener that nobody brings")?)?;
        sockets::send_listener(
            listener,
            fd.as_fd(),
            self.state,
            &self.plan.outside.annotations,
            self.child.pid,
        )
    }

    fn refusal(&self, report: Report) -> Error {
        match report {
            Report::Failed { step, errno, note } => match self.step(step) {
                Ok(step) => {
                    let failed = step_failed(&step.action, Errno::from_raw(errno), &note);
                    match step.action.place() {
                        Some(place) => failed.context(self.named(place)),
                        None => failed,
                    }
                }
                Err(error) => error,
            },
            Report::HookFailed { step, hook, how, said } => match self.step(step).map(|step| &step.action) {
                Ok(Action::Hooks { point, hooks, .. }) => hook_failed(*point, hooks, hook, how, &said),
                _ => anyhow!("the child speaks of a hook at step {step}, which has none"),
            },
            report => anyhow!("the child says {report:?} out of turn"),
        }
    }

    /// A member of the configuration, as errors name it. A guest's process may come from another file, or from options.
    fn named(&self, member: &str) -> String {
        if self.plan.is_birth() { format!("config.json: {member}") } else { member.to_string() }
    }

    /// The child closed the conversation without a word.
    fn obituary(&self) -> Error {
        match wait(Whom::Process(self.child.pidfd.as_fd()), true) {
            Ok(Some((_, Ended::Signalled(libc::SIGKILL)))) => anyhow!(
                "the container's first process was killed while it was being set up (out of memory? the limit may be too low)"
            ),
            Ok(Some((_, Ended::Signalled(libc::SIGSYS)))) => {
                anyhow!("the filter killed the process before its program began")
                    .context(self.named("linux.seccomp"))
            }
            Ok(Some((_, ended))) => {
                anyhow!("the container's first process {ended} while it was being set up")
            }
            _ => anyhow!("the container's first process ended while it was being set up"),
        }
    }
}

/// Until nothing is left of a process that is nobody's to wait for.
fn await_end(process: &OwnedFd) -> Result<()> {
    let deadline = Instant::now() + Duration::from_millis(DEATH_DEADLINE_MS.into());
    let mut gone = ends_within(process, DEATH_DEADLINE_MS)?;
    // It is told of before the kernel has looked whether anybody wants to wait for it.
    while gone && signal(process.as_fd(), 0).is_ok() {
        gone = Instant::now() < deadline;
        std::thread::yield_now();
    }
    ensure!(gone, "who brought the seccomp listener does not end");
    Ok(())
}

/// The hooks of a container that has its namespaces, and that `pid` is the first process of.
pub fn run_hooks(plan: &Plan, state: &State, pid: i32) -> Result<()> {
    timing::done("wait for the child");
    let outside = &plan.outside;
    let both =
        [(HookPoint::Prestart, &outside.prestart), (HookPoint::CreateRuntime, &outside.create_runtime)];
    for (point, listed) in both {
        hooks::run(point, listed, &state.for_hooks(&outside.annotations, point, pid))?;
    }
    timing::done("run hooks");
    Ok(())
}

/// The sentence for a step that did not succeed. Engines look for parts of some (runc's texts).
pub fn step_failed(action: &Action, errno: Errno, note: &Note) -> Error {
    match action {
        Action::FindExecutable { candidates, .. } => not_executable(candidates, errno, note),
        Action::Exec { .. } => exec_failed(errno, note),
        Action::EnterCgroups if errno == Errno::ENOSPC => {
            anyhow!("{}: its cpuset has no processors or no memory", action.intent())
        }
        Action::OpenTree { source, recursive, .. } => {
            let hint = match errno {
                // The kernel keeps them together, so that nothing that is covered shows (mount_namespaces(7)).
                Errno::EINVAL if !recursive => {
                    " (without what is mounted below it? a user needs rbind for that)"
                }
                _ => "",
            };
            anyhow!("open {source:?}: {}{hint}", strerror(errno))
        }
        Action::Label { file, text } => label_refused(file, text, errno)
            .unwrap_or_else(|| anyhow!("{}: {}", action.intent(), strerror(errno))),
        _ if note.as_bytes().is_empty() => anyhow!("{}: {}", action.intent(), strerror(errno)),
        _ => {
            let note = String::from_utf8_lossy(note.as_bytes());
            anyhow!("{}: {} ({})", action.intent(), strerror(errno), note.trim())
        }
    }
}

/// What the kernel's answer to a label means, where it says nothing by itself.
fn label_refused(file: &CStr, text: &CStr, errno: Errno) -> Option<Error> {
    let text = text.to_string_lossy();
    let profile = text.strip_prefix(confinement::APPARMOR_COMMAND).unwrap_or(&text);
    let apparmor = file == confinement::APPARMOR_EXEC;
    Some(match errno {
        Errno::ENOENT if apparmor => {
            anyhow!("no profile {profile:?} is loaded (apparmor_parser loads one)")
        }
        Errno::EACCES | Errno::EPERM if apparmor => {
            anyhow!("the kernel does not let this process change to {profile:?}")
        }
        Errno::EINVAL if !apparmor => {
            anyhow!("{text:?} is no label of the policy that is loaded")
        }
        _ => return None,
    })
}

/// `note` is the candidate that came nearest; in `PATH` there may be none.
fn not_executable(candidates: &[CString], errno: Errno, note: &Note) -> Error {
    let path = String::from_utf8_lossy(note.as_bytes());
    match errno {
        _ if path.is_empty() => {
            let first = candidates.first().map(|first| first.to_string_lossy()).unwrap_or_default();
            let name = first.rsplit('/').next().unwrap_or_default();
            anyhow!("exec: {name:?}: executable file not found in $PATH")
        }
        Errno::ENOENT | Errno::ENOTDIR => anyhow!("exec: {path:?}: stat {path}: {}", lower(errno)),
        // Of runc's words for it Docker knows the older until 20.10, and the newer since.
        Errno::EISDIR => anyhow!("exec: {path:?}: is a directory: permission denied"),
        _ => anyhow!("exec: {path:?}: {}", lower(errno)),
    }
}

pub fn exec_failed(errno: Errno, note: &Note) -> Error {
    let path = String::from_utf8_lossy(note.as_bytes());
    let hint = match errno {
        Errno::ENOENT => {
            " (the file is there, so its interpreter or dynamic loader is missing in the container)"
        }
        Errno::ENOEXEC => " (is it a program for another architecture, or a script without #!?)",
        _ => "",
    };
    anyhow!("exec {path}: {}{hint}", lower(errno))
}

/// As Go prints it, which engines compare with.
fn lower(errno: Errno) -> String {
    strerror(errno).to_lowercase()
}

pub fn hook_failed(point: HookPoint, listed: &[Hook], number: u32, how: HookEnd, said: &Note) -> Error {
    let said = hooks::saying(said.as_bytes());
    let path = listed.get(number as usize).map(|hook| hook.path.to_string_lossy()).unwrap_or_default();
    match how {
        HookEnd::Ended(ended) => anyhow!("{ended}{said}"),
        HookEnd::TimedOut => anyhow!("took longer than its timeout{said}"),
        HookEnd::NotStarted(errno) => anyhow!("cannot be executed: {}", strerror(errno)),
    }
    .context(hooks::place(point, number as usize, &path))
}
