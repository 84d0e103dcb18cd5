//! `run`: create and start, then stay until the container ends, unless detached.

use std::os::fd::AsFd;

use anyhow::{Context as _, Result};

use super::{Context, birth, delete, start, tell_times};
use crate::cli;
use crate::launch::foreground::{Foreground, own_size, receive_terminal};
use crate::launch::{Born, sockets};
use crate::plan::request::Console;
use crate::sys::process::set_child_subreaper;

/// The result is the container's exit status, as a shell would report it.
pub fn run(context: &Context<'_>, options: &cli::Run) -> Result<u8> {
    if options.detach {
        let console = options.birth.console_socket.clone().map_or(Console::None, Console::Socket);
        let born = birth::give_birth(context, &options.birth, &options.id, console, None)?;
        let started = start::detached(born.container, context.log);
        return started.map(|()| 0).inspect_err(|_| give_up(context, &options.id));
    }
    if !options.no_subreaper {
        set_child_subreaper().context("become a subreaper")?;
    }
    let foreground = Foreground::prepare()?;
    let (ours, theirs) = sockets::console_pair()?;
    let console =
        options.birth.console_socket.clone().map_or_else(|| Console::Foreground(own_size()), Console::Socket);
    let Born { container, child } =
        birth::give_birth(context, &options.birth, &options.id, console, Some((theirs, &foreground)))?;
    let attended = receive_terminal(ours.as_fd()).and_then(|terminal| {
        let notify = start::open(container, context.log, Some(foreground.interrupt()))?;
        tell_times(context.log);
        foreground.attend(&child, terminal, notify.as_ref())
    });
    let ended = attended.inspect_err(|_| give_up(context, &options.id))?;
    // How it ended is what the caller asked for, whoever has removed it, or keeps us from it.
    if !options.keep
        && let Err(error) = delete::delete_stopped(context, &options.id)
        && context.store.path(&options.id).exists()
    {
        context.log.warn(&format!("delete {}: {error:#}", options.id));
    }
    Ok(ended.status() as u8)
}

/// A container that could not be started, or that nobody attends any more, is nobody's.
fn give_up(context: &Context<'_>, id: &str) {
    if let Err(also) = delete::force(context, id) {
        context.log.warn(&format!("delete {id}: {also:#}"));
    }
}
