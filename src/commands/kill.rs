//! `kill`: a signal for the container's init, or for all that is in it.

use anyhow::{Result, bail};

use super::Context;
use crate::cli;
use crate::container::{Status, kill_process};

pub fn kill(context: &Context<'_>, options: &cli::Kill) -> Result<()> {
    for id in context.matching(&options.id, options.regex)? {
        kill_one(context, &id, options.signal.number(), options.all)?;
    }
    Ok(())
}

/// Without its own pid namespace, the end of init is not the end of the others, so SIGKILL goes to each.
fn kill_one(context: &Context<'_>, id: &str, number: i32, all: bool) -> Result<()> {
    let state = context.store.look(id)?;
    let status = state.status(&context.store.path(id))?;
    let init = state.init()?;
    let everyone = number == libc::SIGKILL && (all || !state.own_pid_namespace);
    match (init, status) {
        (None, _) | (_, Status::Creating) if !everyone => match all {
            true => return Ok(()),
            false => bail!("container not running"),
        },
        (Some(init), _) => kill_process(&init, number)?,
        _ => {}
    }
    let Some(cgroup) = state.cgroup()? else { return Ok(()) };
    if everyone {
        cgroup.kill()?;
    } else if number == libc::SIGKILL && status == Status::Paused {
        // What is frozen does not die of a signal on v1.
        cgroup.freeze(false)?;
    }
    Ok(())
}
