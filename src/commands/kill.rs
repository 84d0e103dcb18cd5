//! `kill`: a signal for the container's init, or for all that is in it.

use anyhow::{Result, ensure};

use super::Context;
use crate::cli;
use crate::container::kill_process;
use crate::host::cgroup::Cgroup;
use crate::sys::process::open_pidfd;

pub fn kill(context: &Context<'_>, options: &cli::Kill) -> Result<()> {
    for id in context.matching(&options.id, options.regex)? {
        kill_one(context, &id, options.signal.number(), options.all)?;
    }
    Ok(())
}

/// Without its own pid namespace, the end of init is not the end of the others, so SIGKILL goes to each.
fn kill_one(context: &Context<'_>, id: &str, number: i32, all: bool) -> Result<()> {
    let state = context.store.look(id)?;
    let init = state.init()?;
    let deadly = number == libc::SIGKILL;
    let everyone = all || (deadly && !state.own_pid_namespace);
    if init.is_none() && !(deadly && everyone) {
        ensure!(all, "container not running");
        return Ok(());
    }
    let cgroup = if everyone || deadly { state.cgroup(&context.store.path(id))? } else { None };
    match (cgroup, init) {
        (Some(cgroup), _) if everyone && !deadly => signal_each(&*cgroup, number),
        (cgroup, init) => {
            // What is frozen does not die of a signal on v1.
            let frozen = !everyone && cgroup.as_ref().map_or(Ok(false), |cgroup| cgroup.is_frozen())?;
            init.map_or(Ok(()), |init| kill_process(&init, number))?;
            match cgroup {
                Some(cgroup) if everyone => cgroup.kill(),
                Some(cgroup) if frozen => cgroup.freeze(false),
                _ => Ok(()),
            }
        }
    }
}

/// Whoever is listed twice was there all the time, so its handle is not a later process's.
fn signal_each(cgroup: &dyn Cgroup, number: i32) -> Result<()> {
    let handles: Vec<_> =
        cgroup.pids()?.into_iter().filter_map(|pid| Some((pid, open_pidfd(pid.as_raw()).ok()?))).collect();
    let still = cgroup.pids()?;
    handles
        .iter()
        .filter(|(pid, _)| still.contains(pid))
        .try_for_each(|(_, process)| kill_process(process, number))
}
