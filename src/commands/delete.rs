//! `delete`: remove a stopped container and everything that was made for it.

use anyhow::{Context as _, Error, Result, bail};

use super::{Context, start};
use crate::cli;
use crate::container::{Container, Status, check_id};
use crate::launch::run_poststop;
use crate::plan::HookPoint;

pub fn delete(context: &Context<'_>, options: &cli::Delete) -> Result<()> {
    for id in context.matching(&options.id, options.regex)? {
        if options.force { force(context, &id)? } else { delete_stopped(context, &id)? }
    }
    Ok(())
}

/// Remove a container that has stopped, or that was never started.
pub fn delete_stopped(context: &Context<'_>, id: &str) -> Result<()> {
    let container = Container::enter(&context.store, id)?;
    match container.status()? {
        Status::Stopped => {}
        Status::Created | Status::Creating => container.kill()?,
        status => bail!("cannot delete container {id} that is not stopped: {}", status.name()),
    }
    remove(context, container)
}

/// Kill what still runs, then remove. What is not there, or only half there, is removed as far as it is.
pub fn force(context: &Context<'_>, id: &str) -> Result<()> {
    check_id(id)?;
    let Some(container) = Container::enter_remains(&context.store, id)? else { return Ok(()) };
    container.kill()?;
    remove(context, container)
}

pub fn remove(context: &Context<'_>, container: Container) -> Result<()> {
    let id = container.state.id.clone();
    let poststop = container.state.poststop.then(|| {
        let hooks = start::hooks_of(&container, HookPoint::Poststop)?;
        Ok::<_, Error>((hooks, container.for_hooks(HookPoint::Poststop, 0)?))
    });
    container.remove().with_context(|| format!("delete {id}"))?;
    if let Some((hooks, state)) = poststop.transpose()? {
        run_poststop(&hooks, &state, context.log);
    }
    Ok(())
}
