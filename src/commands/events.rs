//! `events`: what a container uses, once or at every interval, and notices that its memory ran out, a line each.
//!
//! One poll(2) waits for all there is to wait for: the next record, a notice, the end of the container.

use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use serde::Serialize;

use super::{Context, print};
use crate::cli;
use crate::container::state::ends_within;
use crate::host::cgroup::Cgroup;
use crate::host::cgroup::oom::OomWatch;
use crate::host::cgroup::stats::Stats;
use crate::host::resctrl::Resctrl;

#[derive(Serialize)]
#[serde(tag = "type", rename_all = "lowercase")]
enum Event<'a> {
    Stats { id: &'a str, data: &'a Stats },
    Oom { id: &'a str },
}

pub fn events(context: &Context<'_>, options: &cli::Events) -> Result<()> {
    let id = &options.id;
    let state = context.store.look(id)?;
    let not_running = || format!("container with id {id} is not running");
    let init = state.init()?.with_context(not_running)?;
    let Some(cgroup) = state.cgroup(&context.store.path(id))? else {
        bail!("container {id:?} has no cgroup that accounts for it")
    };
    let measure = || measure(&*cgroup, state.resctrl.as_ref(), &init);
    if options.stats {
        let stats = measure()?.with_context(not_running)?;
        return tell(&Event::Stats { id, data: &stats });
    }
    stream(id, &*cgroup, &init, options.interval, measure)
}

/// What the container has used. Its groups are there as long as its init is: None, and not zeros, when that has ended.
fn measure(cgroup: &dyn Cgroup, resctrl: Option<&Resctrl>, init: &OwnedFd) -> Result<Option<Stats>> {
    let stats = cgroup.stats().and_then(|stats| match resctrl {
        Some(group) => Ok(Stats { intel_rdt: group.stats()?, ..stats }),
        None => Ok(stats),
    });
    if ends_within(init, 0)? { Ok(None) } else { stats.map(Some) }
}

fn stream(
    id: &str,
    cgroup: &dyn Cgroup,
    init: &OwnedFd,
    interval: Duration,
    measure: impl Fn() -> Result<Option<Stats>>,
) -> Result<()> {
    let mut watch = cgroup.watch_oom()?;
    let mut next = Instant::now() + interval;
    loop {
        wait(init, watch.as_ref(), next)?;
        // Asked before a notice is looked for: what ended the container is told before its end.
        let ended = ends_within(init, 0)?;
        if watch.as_mut().map_or(Ok(false), OomWatch::happened)? {
            tell(&Event::Oom { id })?;
        }
        if ended {
            return Ok(());
        }
        let now = Instant::now();
        if next <= now {
            let Some(stats) = measure()? else { continue };
            tell(&Event::Stats { id, data: &stats })?;
            // A record that comes late does not make those after it come at once.
            next = now.max(next + interval);
        }
    }
}

fn wait(init: &OwnedFd, watch: Option<&OomWatch<'_>>, until: Instant) -> Result<()> {
    // Rounded up, or the last fraction of a millisecond would be spent turning round.
    let left = until.saturating_duration_since(Instant::now()).as_micros().div_ceil(1000);
    let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
    let init = PollFd::new(init.as_fd(), PollFlags::POLLIN);
    let mut fds: Vec<PollFd<'_>> = watch.map(OomWatch::poll_fd).into_iter().chain([init]).collect();
    match poll(&mut fds, timeout) {
        Ok(_) | Err(Errno::EINTR) => Ok(()),
        Err(errno) => Err(errno).context("wait for the next event"),
    }
}

fn tell(event: &Event<'_>) -> Result<()> {
    let mut line = serde_json::to_string(event).context("write JSON")?;
    line.push('\n');
    print(&line)
}
