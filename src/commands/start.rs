//! `start`: open the gate of a created container.

use std::os::fd::{AsFd, BorrowedFd};

use anyhow::{Context as _, Error, Result, anyhow, bail};
use nix::errno::Errno;

use super::Context;
use crate::cli;
use crate::container::{Container, Status, gate};
use crate::host::hooks;
use crate::host::notify::{self, Notify};
use crate::launch::converse::{exec_failed, hook_failed};
use crate::log::Log;
use crate::plan::bundle;
use crate::plan::hooks::of_point;
use crate::plan::{Hook, HookPoint};
use crate::timing;
use crate::wire::Report;

pub fn start(context: &Context<'_>, options: &cli::Start) -> Result<()> {
    detached(Container::enter(&context.store, &options.id)?, context.log)
}

/// Let init go on, and return when it is ready where a service manager wants to know.
pub fn detached(container: Container, log: &Log) -> Result<()> {
    let init = container.state.init;
    let Some((notify, init)) = open(container, log, None)?.zip(init) else { return Ok(()) };
    match init.open()? {
        Some(pidfd) => notify.until_ready(pidfd.as_fd(), init.pid),
        None => Ok(()),
    }
}

/// Let init go on, then run the poststart hooks. A hook that fails is the container's end (runtime.md, Lifecycle 9).
/// The result is where init says that it is ready, if there is a service manager to tell.
pub fn open<'a>(
    container: Container,
    log: &'a Log,
    interrupt: Option<BorrowedFd<'_>>,
) -> Result<Option<Notify<'a>>> {
    match container.status()? {
        Status::Created => {}
        Status::Running | Status::Paused => bail!("cannot start an already running container"),
        Status::Stopped => bail!("cannot start a container that has stopped"),
        Status::Creating => bail!("cannot start a container that is still being created"),
    }
    let manager = if container.state.notify { notify::manager() } else { None };
    let notify =
        manager.map(|manager| Notify::listen(&container.room.path, &manager, log)).transpose()?.flatten();
    if let Some(report) = gate::open(&container.room.path, interrupt)? {
        return Err(refusal(&container, report));
    }
    timing::done("open the gate, see the program begin");
    after_start(&container, log)?;
    Ok(notify)
}

/// The poststart hooks of a container that runs.
pub fn after_start(container: &Container, log: &Log) -> Result<()> {
    if !container.state.poststart {
        return Ok(());
    }
    run_poststart(container).inspect_err(|_| {
        if let Err(also) = container.kill() {
            log.warn(&format!("kill {}: {also:#}", container.state.id));
        }
    })
}

fn run_poststart(container: &Container) -> Result<()> {
    let hooks = hooks_of(container, HookPoint::Poststart)?;
    let pid = container.state.init.map_or(0, |process| process.pid);
    hooks::run(HookPoint::Poststart, &hooks, &container.for_hooks(HookPoint::Poststart, pid)?)
}

/// Hooks as the container's own copy of the configuration has them.
pub fn hooks_of(container: &Container, point: HookPoint) -> Result<Vec<Hook>> {
    let (spec, _) = bundle::parse(&container.config()?).context("config.json")?;
    of_point(&spec, point).context("config.json")
}

/// What init said of its last steps; its plan is gone, but the configuration is still there.
fn refusal(container: &Container, report: Report) -> Error {
    match report {
        Report::Failed { errno, note, .. } => exec_failed(Errno::from_raw(errno), &note),
        Report::HookFailed { hook, how, said, .. } => match hooks_of(container, HookPoint::StartContainer) {
            Ok(hooks) => hook_failed(HookPoint::StartContainer, &hooks, hook, how, &said),
            Err(error) => error,
        },
        report => anyhow!("init says {report:?} out of turn"),
    }
}
