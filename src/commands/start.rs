//! `start`: open the gate of a created container.

use anyhow::{Context as _, Result, bail};

use super::Context;
use crate::cli;
use crate::container::{Container, Status, gate};
use crate::host::hooks;
use crate::launch::converse::{hook_failed, step_failed};
use crate::plan::bundle::Bundle;
use crate::plan::{HookPoint, hooks as plan_hooks};
use crate::wire::Report;
use nix::errno::Errno;

pub fn start(context: &Context<'_>, options: &cli::Start) -> Result<()> {
    let container = Container::enter(&context.store, &options.id)?;
    match container.status()? {
        Status::Created => open(container),
        Status::Running | Status::Paused => bail!("cannot start an already running container"),
        Status::Stopped => bail!("cannot start a container that has stopped"),
        Status::Creating => bail!("cannot start a container that is still being created"),
    }
}

/// Let init go on and run the poststart hooks. A hook that fails is the container's end (runtime.md, Lifecycle 8).
pub fn open(container: Container) -> Result<()> {
    if let Some(report) = gate::open(&container.room.path)? {
        return Err(refusal(&container, report));
    }
    Ok(())
}
