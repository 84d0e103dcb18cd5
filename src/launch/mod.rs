//! Conducts a birth: in which order things are made, and how they are undone.
//!
//! Runs outside. Decides nothing about a container: `plan/` has decided, `host/` and `init/` do.

pub mod checkpoint;
pub mod converse;
pub mod foreground;
pub mod opening;
pub mod relay;
pub mod restore;
pub mod sockets;
pub mod spawn;
pub mod undo;
mod verify;

use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

use crate::container::state::{self, Process, State};
use crate::container::store::{Room, Store, write_atomically};
use crate::container::{CONFIG, Container, gate};
use crate::host::cgroup::{self, Cgroup};
use crate::host::oom::Lent;
use crate::host::resctrl::{self, Resctrl};
use crate::host::{hooks, notify};
use crate::init::{self, Birthright, Gate};
use crate::log::Log;
use crate::plan::cgroup::Location;
use crate::plan::{Action, GroupPlan, Hook, HookPoint, Plan};
use crate::sys::process::{raise_hard_limit, set_affinity};
use crate::sys::procfs::Procfs;
use crate::{timing, wire};
use converse::Conversation;
use opening::Slots;
use spawn::Child;
use undo::Attempt;

/// Where the caller wants to hear of the new process, and what it gives to it.
#[derive(Default)]
pub struct Contact {
    pub pid_file: Option<PathBuf>,
    pub pidfd_socket: Option<PathBuf>,
    pub console: Option<OwnedFd>,
    /// Readable when the caller does not want to wait any longer.
    pub interrupt: Option<OwnedFd>,
}

/// A container that has come to the point where only its own program is left to run. It is still locked.
pub struct Born {
    pub container: Container,
    pub child: Child,
}

/// Make a container, up to its start gate. On an error nothing is left of it.
pub fn birth(
    store: &Store,
    plan: &Plan,
    state: State,
    config: &[u8],
    contact: Contact,
    log: &Log,
) -> Result<Born> {
    let mut attempt = Attempt::default();
    let last_words = last_words(plan, &state);
    let outcome = try_birth(store, plan, state, config, contact, &mut attempt);
    conclude(outcome, attempt, plan, last_words, log)
}

/// The child of an attempt that came out well; of another, nothing is left.
fn conclude(
    outcome: Result<State>,
    attempt: Attempt,
    plan: &Plan,
    last_words: Option<Vec<u8>>,
    log: &Log,
) -> Result<Born> {
    let error = match outcome {
        Ok(state) => {
            let room = attempt.room.context("a container without a room")?;
            let child = attempt.child.context("a container without a child")?;
            return Ok(Born { container: Container { room, state }, child });
        }
        Err(error) => error,
    };
    let had_lived = attempt.child.is_some();
    let error = undone(attempt, error);
    // A container that did not come to be has stopped as well (config.md, Prestart: "the runtime MUST ... continue the
    // lifecycle at step 12").
    if let Some(state) = last_words.filter(|_| had_lived) {
        run_poststop(&plan.outside.poststop, &state, log);
    }
    Err(error)
}

/// What the poststop hooks are told, if there are any.
fn last_words(plan: &Plan, state: &State) -> Option<Vec<u8>> {
    let outside = &plan.outside;
    (!outside.poststop.is_empty()).then(|| state.for_hooks(&outside.annotations, HookPoint::Poststop, 0))
}

/// Hooks that fail are told of and change nothing (runtime.md, Lifecycle 13).
pub fn run_poststop(hooks: &[Hook], state: &[u8], log: &Log) {
    for hook in hooks {
        if let Err(error) = hooks::run(HookPoint::Poststop, std::slice::from_ref(hook), state) {
            log.warn(&format!("{error:#}"));
        }
    }
}

fn undone(attempt: Attempt, error: anyhow::Error) -> anyhow::Error {
    match attempt.undo() {
        Ok(()) => error,
        Err(also) => error.context(format!("(and could not clean up: {also:#})")),
    }
}

fn try_birth(
    store: &Store,
    plan: &Plan,
    mut state: State,
    config: &[u8],
    contact: Contact,
    attempt: &mut Attempt,
) -> Result<State> {
    claim(store, plan, &mut state, config, attempt)?;
    let room = attempt.room.as_ref().context("a container without a room")?;
    if let Some(place) = &state.host_mount {
        std::fs::create_dir(place).with_context(|| format!("make directory {place:?}"))?;
        attempt.host_mount = Some(place.clone());
    }
    if state.notify {
        notify::prepare(&room.path)?;
    }
    let (go, outcome) = gate::make(&room.path)?;
    let gate = Some(Gate { go, outcome });

    let cgroup = attempt.cgroup.as_deref();
    let (child, conversation) = deliver(plan, Slots::open(plan)?, cgroup, gate, contact.console)?;
    let pid = attempt.child.insert(child).pid;
    make_scope(plan, &mut state, pid, attempt)?;
    let room = attempt.room.as_ref().context("a container without a room")?;
    let child = attempt.child.as_ref().context("a birth without a child")?;
    if let (Some(made), Some(group)) = (&attempt.cgroup, &plan.cgroup) {
        made.set_limits(&group.limits.settings).context("config.json")?;
    }
    if let Some(group) = &state.resctrl {
        group.admit(child.pid)?;
    }
    timing::done("set the limits");
    let interrupt = contact.interrupt.as_ref().map(AsFd::as_fd);
    let conversation = Conversation { plan, child, state: &state, socket: conversation, interrupt };
    conversation.until_ready(&mut attempt.net_devices)?;
    timing::done("serve the child");
    let socket = conversation.socket;

    if let (Some(group), Some(made)) = (&plan.resctrl, &mut state.resctrl) {
        made.settle(group);
    }
    state.init = Some(Process::of(child.pid)?);
    write_state(room, &state)?;
    announce(child, contact.pid_file, contact.pidfd_socket.as_deref(), &mut attempt.pid_file)?;
    wire::grant(socket.as_fd()).context("tell the child to go on")?;
    timing::done("write the state, tell the caller");
    Ok(state)
}

/// Take the id, write down what is intended, and make the groups.
fn claim(store: &Store, plan: &Plan, state: &mut State, config: &[u8], attempt: &mut Attempt) -> Result<()> {
    let room = &*attempt.room.insert(store.claim(&state.id)?);
    room.write(CONFIG, config)?;
    timing::done("claim a room");
    // A unit has a first process: there is none to be opened yet.
    let scope = plan.cgroup.as_ref().and_then(|group| group.scope.as_ref());
    state.wanted = scope.map(cgroup::scope::unit).transpose()?;
    let group = plan.cgroup.as_ref().filter(|group| group.scope.is_none());
    if let Some(group) = group {
        let made =
            attempt.cgroup.insert(cgroup::open(&group.layout, &group.path, group.delegate.as_deref())?);
        state.cgroup = Some(made.location());
    }
    if let Some(group) = &plan.resctrl {
        state.resctrl = Some(Resctrl::survey(&resctrl::mount_point()?, group)?);
    }
    // From here on a later `delete --force` knows what to look for, whatever becomes of us.
    write_state(room, state)?;
    if let Some(group) = group {
        make_group(group, &mut attempt.cgroup)?;
        // A parent that somebody made meanwhile is not ours to remove.
        state.cgroup = attempt.cgroup.as_ref().map(|made| made.location());
    }
    if let (Some(group), Some(made)) = (&plan.resctrl, &state.resctrl) {
        attempt.resctrl.insert(made.clone()).make(group)?;
    }
    timing::done("write the intent, make the cgroups");
    Ok(())
}

/// Where systemd makes the group, it makes it around a process, which waits meanwhile.
fn make_scope(plan: &Plan, state: &mut State, pid: i32, attempt: &mut Attempt) -> Result<()> {
    let Some(group) = &plan.cgroup else { return Ok(()) };
    let Some(scope) = &group.scope else { return Ok(()) };
    let made = cgroup::scope::start(group, scope, pid)?;
    state.cgroup = Some(made.location());
    state.wanted = None;
    attempt.cgroup = Some(Box::new(made));
    write_state(attempt.room.as_ref().context("a container without a room")?, state)?;
    make_group(group, &mut attempt.cgroup)?;
    state.cgroup = attempt.cgroup.as_ref().map(|made| made.location());
    timing::done("have systemd make the scope");
    Ok(())
}

const DELEGATE: &str = "config.json: linux.resources and linux.cgroupsPath need a control group that is delegated to \
                        this user, as `systemd-run --user --scope --property=Delegate=yes` gives";

/// Make the group, with its rules on devices. A user to whom no groups were delegated can do without one, if nothing
/// depends on it.
fn make_group(plan: &GroupPlan, group: &mut Option<Box<dyn Cgroup>>) -> Result<()> {
    let Some(made) = group else { return Ok(()) };
    match made.create() {
        Err(error) if cgroup::is_denied(&error) && plan.can_do_without() => {
            made.remove()?;
            *group = None;
            return Ok(());
        }
        Err(error) if cgroup::is_denied(&error) && plan.delegated => return Err(error.context(DELEGATE)),
        result => result?,
    }
    if let Some(owner) = plan.owner {
        made.give_to(owner)?;
    }
    match &plan.limits.devices {
        Some(devices) => made.restrict_devices(devices).context("config.json"),
        None => Ok(()),
    }
}

/// Tell the caller of the new process. `written` is the pid file, to be removed should anything fail afterwards.
fn announce(
    child: &Child,
    pid_file: Option<PathBuf>,
    pidfd_socket: Option<&Path>,
    written: &mut Option<PathBuf>,
) -> Result<()> {
    if let Some(path) = pid_file {
        write_atomically(&path, child.pid.to_string().as_bytes(), 0o644)?;
        *written = Some(path);
    }
    match pidfd_socket {
        Some(path) => sockets::send_pidfd(path, child.pidfd.as_fd()),
        None => Ok(()),
    }
}

/// Where a guest goes.
#[derive(Clone, Copy)]
pub enum Whereto<'a> {
    /// Its caller's groups.
    Nowhere,
    /// It is born there, or walks in.
    Group(&'a dyn Cgroup),
    /// systemd moves it there while it waits ([`crate::plan::Moment::Placed`]).
    Unit(&'a Location),
}

/// Make one more process in a container, as far as its program.
pub fn guest(plan: &Plan, state: &State, whereto: Whereto<'_>, contact: Contact) -> Result<Child> {
    let mut attempt = Attempt::default();
    match try_guest(plan, state, whereto, contact, &mut attempt) {
        Ok(()) => attempt.child.context("a birth without a child"),
        Err(error) => Err(undone(attempt, error)),
    }
}

fn try_guest(
    plan: &Plan,
    state: &State,
    whereto: Whereto<'_>,
    contact: Contact,
    attempt: &mut Attempt,
) -> Result<()> {
    let slots = Slots::open(plan)?;
    // Looked at with the handle in hand: if init is alive now, the handle is init's and not a later process's.
    ensure!(state.init.map_or(Ok(false), |init| init.is_alive())?, "the container has stopped");
    let group = match whereto {
        Whereto::Group(group) => Some(group),
        Whereto::Nowhere | Whereto::Unit(_) => None,
    };
    if let Some(mask) = &plan.outside.affinity {
        set_affinity(mask).context("run on the CPUs of process.execCPUAffinity.initial")?;
    }
    let (child, conversation) = deliver(plan, slots, group, None, contact.console)?;
    let child = &*attempt.child.insert(child);
    if let Whereto::Unit(location) = whereto {
        cgroup::scope::attach(location, child.pid)?;
    }
    if let Some(group) = &state.resctrl {
        group.admit(child.pid)?;
    }
    let interrupt = contact.interrupt.as_ref().map(AsFd::as_fd);
    let conversation = Conversation { plan, child, state, socket: conversation, interrupt };
    conversation.until_ready(&mut attempt.net_devices)?;
    timing::done("serve the child");
    announce(child, contact.pid_file, contact.pidfd_socket.as_deref(), &mut attempt.pid_file)?;
    conversation.let_go()?;
    conversation.until_executed()?;
    timing::done("tell the caller, see the program begin");
    Ok(())
}

/// Clone; the result is the child and our end of the conversation with it.
fn deliver(
    plan: &Plan,
    slots: Slots,
    cgroup: Option<&dyn Cgroup>,
    gate: Option<Gate>,
    console: Option<OwnedFd>,
) -> Result<(Child, OwnedFd)> {
    timing::done("open what the plan names");
    let stamps = timing::inside(plan.steps.iter().map(|step| step.action.intent()))?;
    let procfs = Procfs::open().context("open /proc")?;
    let (ours, theirs) = wire::pair().context("make a socket pair")?;
    let birthplace = cgroup.and_then(Cgroup::birthplace);
    let doors = cgroup.map(Cgroup::doors).unwrap_or_default();
    let first = plan.first_closed();
    // Everything that the closure takes is the child's alone: the parent's copies are closed when it is dropped.
    let inside = move |slots: Slots| {
        let (slots, procfs) = (slots.into_inner(), Some(procfs));
        let given = Birthright { slots, doors, conversation: theirs, procfs, gate, console, first, stamps };
        init::walk(&plan.steps, given)
    };
    let outside = &plan.outside;
    let lent = match outside.oom_score_adj.filter(|_| outside.oom_score_by_birth) {
        Some(score) => Lent::new(score)?,
        None => None,
    };
    raise_limits(plan);
    let child = spawn::spawn(&plan.enter, slots, birthplace, inside);
    // Even without a child.
    lent.map_or(Ok(()), Lent::end)?;
    timing::done("clone");
    Ok((child?, ours))
}

/// Only who has CAP_SYS_RESOURCE in the first user namespace may raise a hard limit, so a child that is born in another
/// inherits ours.
fn raise_limits(plan: &Plan) {
    for step in &plan.steps {
        if let Action::Rlimit { resource, hard, .. } = step.action {
            // Said by the child's step, where it matters.
            let _ = raise_hard_limit(resource, hard);
        }
    }
}

fn write_state(room: &Room, state: &State) -> Result<()> {
    // It does not grow while it is written.
    let mut text = Vec::with_capacity(4 << 10);
    serde_json::to_writer(&mut text, state).context("write the state")?;
    room.write(state::FILE, &text)
}
