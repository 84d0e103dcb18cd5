//! `delete`: remove a stopped container and everything that was made for it.

use anyhow::{Context as _, Result, bail};

use super::{Context, start};
use crate::cli;
use crate::container::{Container, Status, check_id};
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

/// Poststop hooks that fail are told of and change nothing (runtime.md, Lifecycle 13).
pub fn remove(context: &Context<'_>, container: Container) -> Result<()> {
    let poststop = container.state.poststop.then(|| start::hooks_of(&container, HookPoint::Poststop));
    let state = container.state.clone();
    container.remove().with_context(|| format!("delete {}", state.id))?;
    for hook in poststop.transpose()?.iter().flatten() {
        let hooks = std::slice::from_ref(hook);
        let text = state.for_hooks(HookPoint::Poststop, 0);
        if let Err(error) = crate::host::hooks::run(HookPoint::Poststop, hooks, &text) {
            context.log.warn(&format!("{error:#}"));
        }
    }
    Ok(())
}
