//! `restore`: a container from a checkpoint, then as `run` does: stay until it ends, unless detached.

use std::fs;
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value as Json;

use super::{Context, birth, checkpoint, delete, start};
use crate::cli;
use crate::container::check_id;
use crate::launch::foreground::{Foreground, own_size, receive_terminal};
use crate::launch::{Born, Contact, restore as launch, sockets};
use crate::plan::bundle::Bundle;
use crate::plan::checkpoint::{self as planned, DESCRIPTORS, Wishes};
use crate::plan::criu::{self, Value, opts};
use crate::plan::facts::Facts;
use crate::plan::namespaces::Place;
use crate::plan::request::{Console, Options};
use crate::plan::{Namespace, steps};
use crate::sys::process::set_child_subreaper;

/// The result is the container's exit status, as a shell would report it.
pub fn restore(context: &Context<'_>, options: &cli::Restore) -> Result<u8> {
    let console = |otherwise| options.console_socket.clone().map_or(otherwise, Console::Socket);
    if options.detach {
        let born = bring_back(context, options, console(Console::None), None, None)?;
        start::after_start(&born.container, context.log)?;
        return Ok(0);
    }
    if !options.no_subreaper {
        set_child_subreaper().context("become a subreaper")?;
    }
    let foreground = Foreground::prepare()?;
    let (ours, theirs) = sockets::console_pair()?;
    let interrupt = Some(foreground.share_interrupt()?);
    let console = console(Console::Foreground(own_size()));
    let Born { container, child } = bring_back(context, options, console, Some(theirs), interrupt)?;
    let attended = receive_terminal(ours.as_fd()).and_then(|terminal| {
        // As after `start`: a hook that fails is the container's end.
        start::after_start(&container, context.log)?;
        drop(container);
        foreground.attend(&child, terminal, None)
    });
    let ended = attended.inspect_err(|_| give_up(context, &options.id))?;
    delete::delete_stopped(context, &options.id)?;
    Ok(ended.status() as u8)
}

fn bring_back(
    context: &Context<'_>,
    options: &cli::Restore,
    console: Console,
    terminal: Option<OwnedFd>,
    interrupt: Option<OwnedFd>,
) -> Result<Born> {
    check_id(&options.id)?;
    let facts = Facts::gather()?;
    let bundle = Bundle::read(&options.bundle, Path::new("config.json"))?;
    let room = context.store.path(&options.id);
    let options_of_plan = Options {
        room: room.clone(),
        cgroups: birth::cgroups(context.global),
        console: console.clone(),
        ..Options::default()
    };
    let request = bundle.request(&options.id, &facts, &options_of_plan);
    let plan = steps::birth(&request)?;
    let wishes = wishes(options)?;
    let streams = streams(&wishes)?;
    let asked = planned::restore(&request, &plan, &launch::place(&room), &streams, &wishes)?;
    context.log.debug(|| format!("request to criu for {}:\n{}", options.id, criu::text(&asked)));
    let own_pids = request.place(Namespace::Pid) == Place::New;
    let state = birth::state_of(&bundle, &plan, &options.id, facts.euid, own_pids);
    let contact = Contact {
        pid_file: options.pid_file.clone(),
        pidfd_socket: None,
        console: sockets::console(&console, terminal)?,
        interrupt,
    };
    launch::restore(&context.store, &plan, &asked, state, &bundle.text, contact, context.log)
}

fn wishes(options: &cli::Restore) -> Result<Wishes> {
    let mut wishes = checkpoint::common(&options.criu)?;
    wishes.options.extend(checkpoint::switches(&[(opts::TCP_CLOSE, options.tcp_close)]));
    if let Some(profile) = &options.lsm_profile {
        ensure!(profile.contains(':'), "--lsm-profile {profile:?} is not TYPE:NAME");
        wishes.options.push((opts::LSM_PROFILE, Value::text(profile)));
    }
    if let Some(context) = &options.lsm_mount_context {
        wishes.options.push((opts::LSM_MOUNT_CONTEXT, Value::text(context)));
    }
    Ok(wishes)
}

/// What the standard streams were when the image was made.
fn streams(wishes: &Wishes) -> Result<Vec<Option<String>>> {
    const LARGEST: u64 = 64 * 1024;
    let path = wishes.image_path.join(DESCRIPTORS);
    let shown = path.display().to_string();
    let file = fs::File::open(&path).with_context(|| format!("open {shown} (is it a checkpoint?)"))?;
    let mut text = Vec::new();
    file.take(LARGEST).read_to_end(&mut text).with_context(|| format!("read {shown}"))?;
    let names: Vec<Json> = serde_json::from_slice(&text).context(shown)?;
    Ok(names.iter().map(|name| name.as_str().map(str::to_string)).collect())
}

/// A container that nobody attends any more is nobody's.
fn give_up(context: &Context<'_>, id: &str) {
    if let Err(also) = delete::force(context, id) {
        context.log.warn(&format!("delete {id}: {also:#}"));
    }
}
