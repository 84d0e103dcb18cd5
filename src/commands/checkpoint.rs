//! `checkpoint`: a running container on disk, by CRIU.

use std::os::fd::OwnedFd;
use std::path::PathBuf;

use anyhow::{Context as _, Result, bail, ensure};
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::stat::Mode;

use super::{Context, delete};
use crate::cli::{self, CgroupsMode, EmptyNamespace, NetworkLock};
use crate::container::{Container, Status};
use crate::launch::checkpoint as launch;
use crate::launch::foreground::Foreground;
use crate::plan::checkpoint::{self as planned, Wishes};
use crate::plan::criu::{self, Field, Value, opts};
use crate::plan::facts::Facts;
use crate::plan::request::{Cgroups, Console, Options, Request};
use crate::plan::{bundle, steps};
use crate::sys::fd::{inherited, is_open};

pub fn checkpoint(context: &Context<'_>, options: &cli::Checkpoint) -> Result<()> {
    let container = Container::enter(&context.store, &options.id)?;
    match container.status()? {
        Status::Running | Status::Paused => {}
        Status::Stopped => bail!("container not running"),
        status => bail!("cannot checkpoint a container that is {}", status.name()),
    }
    let init = container.state.init.context("the container has no init")?;
    let facts = Facts::gather()?;
    let (spec, warnings) = bundle::parse(&container.config()?).context("config.json")?;
    let options_of_plan = Options {
        room: container.room.path.clone(),
        // Those it has are in its state.
        cgroups: Cgroups::Disabled,
        console: match spec.process().as_ref().and_then(|process| process.terminal()) {
            Some(true) => Console::Foreground(None),
            _ => Console::None,
        },
        ..Options::default()
    };
    let request = Request {
        id: &container.state.id,
        bundle: &container.state.bundle,
        spec: &spec,
        warnings: &warnings,
        facts: &facts,
        options: &options_of_plan,
    };
    let plan = steps::birth(&request)?;
    let wishes = wishes(options)?;
    let seen = launch::look(&plan, init.pid)?;
    let dump = planned::dump(&request, &seen, container.state.cgroup.as_ref(), &wishes)?;
    context.log.debug(|| format!("request to criu for {}:\n{}", options.id, criu::text(&dump)));
    // Whoever serves memory waits for others, perhaps in vain.
    let foreground = options.criu.lazy_pages.then(Foreground::prepare).transpose()?;
    let interrupt = foreground.as_ref().map(Foreground::interrupt);
    launch::dump(&dump, &seen, &wishes.image_path, status_fd(options)?, interrupt)?;
    // criu has ended the processes: the container is where the image is now.
    if options.leave_running || options.pre_dump {
        return Ok(());
    }
    container.kill()?;
    delete::remove(context, container)
}

fn wishes(options: &cli::Checkpoint) -> Result<Wishes> {
    let mut wishes = common(&options.criu)?;
    wishes.options.extend(switches(&[
        (opts::LEAVE_RUNNING, options.leave_running),
        (opts::TCP_SKIP_IN_FLIGHT, options.tcp_skip_in_flight),
        (opts::LINK_REMAP, options.link_remap),
    ]));
    wishes.pre_dump = options.pre_dump;
    if let Some(server) = &options.page_server {
        wishes.options.push(criu::page_server(&server.address, server.port));
    }
    if let Some(parent) = &options.parent_path {
        ensure!(parent.is_relative(), "--parent-path {parent:?} is not relative to the image path");
        let place = wishes.image_path.join(parent);
        // Without the image path, which may be missing yet, `..` leads nowhere.
        match nix::unistd::mkdir(&wishes.image_path, Mode::S_IRWXU) {
            Ok(()) | Err(Errno::EEXIST) => {}
            Err(error) => {
                return Err(error).with_context(|| format!("make directory {:?}", wishes.image_path));
            }
        }
        ensure!(place.is_dir(), "--parent-path {parent:?}: {place:?} is no directory");
        wishes.parent_path = Some(parent.clone());
    }
    Ok(wishes)
}

/// What `restore` has as well.
pub fn common(options: &cli::Criu) -> Result<Wishes> {
    let absolute =
        |path: &PathBuf| std::path::absolute(path).with_context(|| format!("the path of {}", path.display()));
    let mut fields = switches(&[
        (opts::TCP_ESTABLISHED, options.tcp_established),
        (opts::EXT_UNIX_SK, options.ext_unix_sk),
        (opts::SHELL_JOB, options.shell_job),
        (opts::FILE_LOCKS, options.file_locks),
        (opts::AUTO_DEDUP, options.auto_dedup),
    ]);
    // The numbers of `enum criu_cg_mode`, `enum criu_network_lock_method` and CLONE_NEWNET.
    let numbers = [
        (
            opts::MANAGE_CGROUPS_MODE,
            options.manage_cgroups_mode.map(|mode| match mode {
                CgroupsMode::Soft => 3,
                CgroupsMode::Full => 4,
                CgroupsMode::Strict => 5,
                CgroupsMode::Ignore => 0,
            }),
        ),
        (
            opts::NETWORK_LOCK,
            options.network_lock.map(|method| match method {
                NetworkLock::Iptables => 1,
                NetworkLock::Nftables => 2,
                NetworkLock::Skip => 3,
            }),
        ),
        (
            opts::EMPTY_NS,
            options.empty_ns.first().map(|EmptyNamespace::Network| nix::libc::CLONE_NEWNET as u64),
        ),
    ];
    fields.extend(numbers.into_iter().filter_map(|(field, number)| Some((field, Value::Number(number?)))));
    Ok(Wishes {
        image_path: absolute(&options.image_path)?,
        work_path: options.work_path.as_ref().map(absolute).transpose()?,
        options: fields,
        lazy_pages: options.lazy_pages,
        config_file: CONFIG_FILES.iter().map(PathBuf::from).find(|path| path.exists()),
        ..Wishes::default()
    })
}

/// Files of options for CRIU, of which the first that exists counts: ours, and what administrators wrote for others.
const CONFIG_FILES: &[&str] = &["/etc/criu/corten.conf", "/etc/criu/crun.conf", "/etc/criu/runc.conf"];

/// Those that are on.
pub fn switches(listed: &[(Field, bool)]) -> Vec<(Field, Value)> {
    listed.iter().filter(|(_, on)| *on).map(|(field, on)| (*field, (*on).into())).collect()
}

/// To be called before anything is opened, which would take its place.
pub fn check_status_fd(options: &cli::Checkpoint) -> Result<()> {
    match options.status_fd {
        Some(number) if !i32::try_from(number).is_ok_and(is_open) => {
            bail!("--status-fd {number}: the descriptor is not open")
        }
        _ => Ok(()),
    }
}

fn status_fd(options: &cli::Checkpoint) -> Result<Option<OwnedFd>> {
    let Some(number) = options.status_fd.and_then(|number| i32::try_from(number).ok()) else {
        return Ok(None);
    };
    let flags = fcntl(inherited(number), FcntlArg::F_GETFL).context("--status-fd")?;
    let mode = OFlag::from_bits_retain(flags) & OFlag::O_ACCMODE;
    ensure!(mode != OFlag::O_RDONLY, "--status-fd {number}: the descriptor is not open for writing");
    inherited(number).try_clone_to_owned().context("--status-fd").map(Some)
}
