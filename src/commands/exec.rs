//! `exec`: one more process in a container.

use std::collections::HashMap;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Component, Path, PathBuf};

use anyhow::{Context as _, Result, bail, ensure};
use nix::unistd::Pid;
use oci_spec::runtime::Process;

use super::{Context, birth, tell_times};
use crate::cli::{self, SubCgroup};
use crate::container::state::{self, State};
use crate::container::{Status, check_id, read_config};
use crate::host::cgroup;
use crate::launch::foreground::{Foreground, own_size, receive_terminal};
use crate::launch::spawn::Child;
use crate::launch::{self, Contact, Whereto, sockets};
use crate::plan::cgroup::Location;
use crate::plan::facts::Facts;
use crate::plan::guest::{self, Wishes};
use crate::plan::request::{Cgroups, Console, Options, Request};
use crate::plan::systemd::Manager;
use crate::plan::{Plan, bundle, steps};
use crate::sys::process::set_child_subreaper;
use crate::timing;

/// The result is the process's exit status, as a shell would report it.
pub fn exec(context: &Context<'_>, options: &cli::Exec) -> Result<u8> {
    check_id(&options.id)?;
    let state = context.store.look(&options.id)?;
    let room = context.store.path(&options.id);
    match state.status(&room)? {
        Status::Created if !state.init.as_ref().is_some_and(may_look_into) => bail!(
            "cannot exec in a container that has not been started, as a user without root, unless its pid and user \
             namespaces are its own and its hooks print to no files"
        ),
        Status::Created | Status::Running => {}
        Status::Paused if options.ignore_paused => {}
        Status::Paused => bail!("cannot exec in a paused container (use --ignore-paused to override)"),
        Status::Stopped => bail!("cannot exec in a stopped container"),
        Status::Creating => bail!("cannot exec in a container that is still being created"),
    }
    let init = state.init.as_ref().context("the container has no init")?.pid;
    let console = match &options.console_socket {
        Some(path) => Console::Socket(path.clone()),
        None if options.detach => Console::None,
        None => Console::Foreground(own_size()),
    };
    let plan = plan(context, options, &state, &room, init, &console)?;
    if options.detach {
        let contact = contact(options, &console, None, None)?;
        launch_in_group(&plan, &state, options, init, contact)?;
        return Ok(0);
    }
    set_child_subreaper().context("become a subreaper")?;
    let foreground = Foreground::prepare()?;
    let (ours, theirs) = sockets::console_pair()?;
    let contact = contact(options, &console, Some(theirs), Some(foreground.share_interrupt()?))?;
    let child = launch_in_group(&plan, &state, options, init, contact)?;
    tell_times(context.log);
    let attended =
        receive_terminal(ours.as_fd()).and_then(|terminal| foreground.attend(&child, terminal, None));
    match attended {
        Ok(ended) => Ok(ended.status() as u8),
        // Nobody would hear of its end.
        Err(error) => {
            child.end()?;
            Err(error)
        }
    }
}

/// The plan has seen to it that a user may (`may_be_joined_early`), or that nobody but root may.
fn may_look_into(init: &state::Process) -> bool {
    std::fs::read_link(format!("/proc/{}/ns/pid", init.pid)).is_ok()
}

fn contact(
    options: &cli::Exec,
    console: &Console,
    terminal: Option<OwnedFd>,
    interrupt: Option<OwnedFd>,
) -> Result<Contact> {
    Ok(Contact {
        pid_file: options.pid_file.clone(),
        pidfd_socket: options.pidfd_socket.clone(),
        console: sockets::console(console, terminal)?,
        interrupt,
    })
}

fn plan(
    context: &Context<'_>,
    options: &cli::Exec,
    state: &State,
    room: &Path,
    init: i32,
    console: &Console,
) -> Result<Plan> {
    let facts = Facts::gather()?;
    let (spec, _) = bundle::parse(&read_config(room)?).context("config.json")?;
    let (process, warnings) = process(options, spec.process().as_ref())?;
    let options_of_plan = Options {
        preserve_fds: options.preserve_fds,
        console: console.clone(),
        cgroups: cgroups(state),
        seccomp_receiver: birth::seccomp_receiver(),
        ..Options::default()
    };
    let request = Request {
        id: &state.id,
        bundle: &state.bundle,
        spec: &spec,
        warnings: &warnings,
        facts: &facts,
        options: &options_of_plan,
    };
    let plan = steps::guest(&request, &process, init)?;
    context.tell(&state.id, &plan);
    timing::done("read the configuration, plan");
    Ok(plan)
}

/// From a file, or the container's own process changed by options.
fn process(options: &cli::Exec, container: Option<&Process>) -> Result<(Process, Vec<String>)> {
    if let Some(path) = &options.process {
        let text = bundle::read(path)?;
        return bundle::parse_process(&text).with_context(|| path.display().to_string());
    }
    let container =
        container.context("the container's configuration has no process to go by: use --process")?;
    let wishes = Wishes {
        arguments: program(&options.args).to_vec(),
        environment: options.env.clone(),
        cwd: options.cwd.as_ref().map(PathBuf::from),
        user: options.user.map(|user| (user.uid, user.gid)),
        additional_gids: options.additional_gids.clone(),
        capabilities: options.cap.clone(),
        apparmor_profile: options.apparmor.clone(),
        selinux_label: options.process_label.clone(),
        terminal: options.tty,
        no_new_privileges: options.no_new_privs,
    };
    Ok((guest::process(container, &wishes)?, Vec::new()))
}

/// People write `--` in front of a program, as for other programs that run one.
fn program(words: &[String]) -> &[String] {
    match words {
        [first, rest @ ..] if first == "--" => rest,
        words => words,
    }
}

/// In the container's group, or in the one below it that init has moved to: a systemd inside will hand controllers down,
/// and cannot while one of us is where it was (cgroups(7), "no internal processes").
fn launch_in_group(
    plan: &Plan,
    state: &State,
    options: &cli::Exec,
    init: i32,
    contact: Contact,
) -> Result<Child> {
    let Some(own) = &state.cgroup else {
        ensure!(options.cgroup.is_empty(), "--cgroup: the container has no cgroup of its own");
        return launch::guest(plan, state, Whereto::Nowhere, contact);
    };
    let reopen = |location: Location| cgroup::reopen(&location).map(|group| (location, group));
    let (mut location, mut group) = match options.cgroup.is_empty() {
        true => reopen(own.clone())?,
        false => reopen(below(own, &options.cgroup)?)?,
    };
    if options.cgroup.is_empty()
        && group.has_groups_below()?
        && let Some(lower) = cgroup::moved_down(own, Pid::from_raw(init))?
    {
        (location, group) = reopen(lower)?;
    }
    if cgroups(state) == Cgroups::Systemd {
        return launch::guest(plan, state, Whereto::Unit(&location), contact);
    }
    group.admit()?;
    launch::guest(plan, state, Whereto::Group(&*group), contact)
}

/// A user may not carry a process out of its session into a unit: its systemd does. Root needs nobody for that.
fn cgroups(state: &State) -> Cgroups {
    match state.cgroup.as_ref().and_then(|location| location.unit.as_ref()) {
        Some(unit) if unit.manager == Manager::User => Cgroups::Systemd,
        _ => Cgroups::Files,
    }
}

/// The sub-groups that `--cgroup` names, of all hierarchies or of those with the named controllers.
fn below(own: &Location, wishes: &[SubCgroup]) -> Result<Location> {
    let mut location = own.clone();
    let mut named: HashMap<&str, &str> = HashMap::new();
    for wish in wishes {
        ensure!(
            wishes.len() == 1 || !wish.controllers.is_empty(),
            "--cgroup: given more than once, each needs controllers"
        );
        let inside = sub_path(&wish.path)?;
        for controller in &wish.controllers {
            let before = named.insert(controller, &wish.path);
            ensure!(before.is_none(), "--cgroup: controller {controller:?} is named twice");
        }
        let wanted = |controllers: &[String]| {
            wish.controllers.is_empty()
                || wish.controllers.iter().any(|name| {
                    controllers.iter().any(|own| own == name || own.strip_prefix("name=") == Some(name))
                })
        };
        let mut found = false;
        for place in &mut location.v1 {
            if wanted(&place.hierarchy.controllers) {
                place.path.push(&inside);
                found = true;
            }
        }
        if let Some(place) = &mut location.v2
            && wish.controllers.is_empty()
        {
            place.path.push(&inside);
            found = true;
        }
        ensure!(found, "--cgroup: no mounted hierarchy has controller {:?}", wish.controllers.join(","));
    }
    Ok(location)
}

/// A path that stays below the container's group.
fn sub_path(path: &str) -> Result<PathBuf> {
    let mut inside = PathBuf::new();
    for component in Path::new(path).components() {
        match component {
            Component::Normal(name) => inside.push(name),
            Component::RootDir | Component::CurDir => {}
            _ => bail!("--cgroup: {path:?} leaves the container's cgroup with a \"..\""),
        }
    }
    Ok(inside)
}
