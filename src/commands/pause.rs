//! `pause` and `resume`: hold every process of a container still, and let them go on.

use anyhow::{Context as _, Result, bail};

use super::Context;
use crate::cli;
use crate::container::{Container, Status};

pub fn pause(context: &Context<'_>, options: &cli::Pause) -> Result<()> {
    let container = Container::enter(&context.store, &options.id)?;
    match container.status()? {
        Status::Created | Status::Running => freeze(&container, true),
        Status::Paused => bail!("container not running: it is paused already"),
        Status::Creating | Status::Stopped => bail!("container not running"),
    }
}

pub fn resume(context: &Context<'_>, options: &cli::Resume) -> Result<()> {
    let container = Container::enter(&context.store, &options.id)?;
    match container.status()? {
        Status::Paused => freeze(&container, false),
        _ => bail!("container not paused"),
    }
}

fn freeze(container: &Container, frozen: bool) -> Result<()> {
    container.cgroup()?.context("the container has no cgroup to freeze")?.freeze(frozen)
}
