//! The process itself: what it runs, where, with which environment, as whom, on which terminal.
//!
//! Runs outside. The same functions serve a container's first process and every guest; `steps.rs` orders them.

use std::ffi::CString;

use anyhow::{Result, bail, ensure};
use oci_spec::runtime::Process;

use super::request::{Console, Listen, Request, c_path, c_string};
use super::steps::Steps;
use super::{Action, IdMapping, Terminal, idmap, namespaces};

/// Where a program is looked for when the environment has no `PATH`.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Umask of a process whose configuration has none, as in runc and crun.
const DEFAULT_UMASK: u32 = 0o022;

/// (uid_t) -1, which system calls take for "unchanged".
const NOBODY_AT_ALL: u32 = u32::MAX;

/// The terminal, before anything covers the container's devpts.
pub fn plan_terminal(request: &Request, process: &Process, steps: &mut Steps) -> Result<()> {
    let wanted = process.terminal().unwrap_or(false);
    match (&request.options.console, wanted) {
        (Console::None, true) => bail!("process.terminal: nobody takes the terminal (see --console-socket)"),
        (Console::Socket(_), false) => bail!("process.terminal: is false, so --console-socket gets nothing"),
        (_, false) => return Ok(()),
        (_, true) => {}
    }
    let side = |length: u64, name: &str| {
        let length = u16::try_from(length);
        length.map_err(|_| anyhow::anyhow!("process.consoleSize.{name}: more than {}", u16::MAX))
    };
    let size = match process.console_size() {
        Some(size) => {
            Some(Terminal { rows: side(size.height(), "height")?, columns: side(size.width(), "width")? })
        }
        None => None,
    };
    steps.outside.terminal = Some(size.unwrap_or(Terminal { rows: 0, columns: 0 }));
    steps.every(Action::Terminal { size, owner: process.user().uid(), console: steps.is_birth() });
    Ok(())
}

/// The working directory, made while root can still make it.
pub fn plan_directory(process: &Process, steps: &mut Steps) -> Result<()> {
    let directory = c_path(process.cwd(), "process.cwd")?;
    if directory.as_bytes() != b"/" {
        steps.birth(Action::MakeDirectory { inside: directory, mode: 0o755 });
    }
    Ok(())
}

pub fn plan_umask(process: &Process, steps: &mut Steps) -> Result<()> {
    let mask = process.user().umask().unwrap_or(DEFAULT_UMASK);
    ensure!(mask <= 0o777, "process.user.umask: {mask} is more than 511 (0777)");
    steps.every(Action::Umask { mask });
    Ok(())
}

pub fn plan_user(request: &Request, process: &Process, steps: &mut Steps) -> Result<()> {
    let user = process.user();
    let additional = user.additional_gids().as_deref().unwrap_or_default();
    let maps = namespaces::maps(request)?;
    let uids = maps.as_ref().map(|maps| maps.uids.as_slice());
    let gids = maps.as_ref().map(|maps| maps.gids.as_slice());
    check_id(uids, user.uid(), "process.user.uid")?;
    check_id(gids, user.gid(), "process.user.gid")?;
    for (index, gid) in additional.iter().enumerate() {
        check_id(gids, *gid, &format!("process.user.additionalGids[{index}]"))?;
    }
    let denied = !request.facts.setgroups || maps.as_ref().is_some_and(|maps| maps.deny_setgroups);
    let groups = if keeps_groups(request) {
        None
    } else if denied {
        let why = "an unprivileged user namespace has no say over groups";
        ensure!(additional.is_empty(), "process.user.additionalGids: {why} (setgroups is denied)");
        None
    } else {
        Some(additional.to_vec())
    };
    steps.every(Action::SetUser { uid: user.uid(), gid: user.gid(), groups });
    Ok(())
}

/// crun's annotation for keeping the caller's supplementary groups.
fn keeps_groups(request: &Request) -> bool {
    let annotations = request.spec.annotations().as_ref();
    annotations
        .and_then(|annotations| annotations.get("run.oci.keep_original_groups"))
        .is_some_and(|value| value == "1" || value == "true")
}

fn check_id(map: Option<&[IdMapping]>, id: u32, path: &str) -> Result<()> {
    ensure!(id != NOBODY_AT_ALL, "{path}: {id} is not an id");
    let mapped = map.is_none_or(|map| idmap::outside(map, id).is_some());
    ensure!(mapped, "{path}: {id} is not mapped in the container's user namespace");
    Ok(())
}

/// `HOME`, which the container's own passwd file knows. Looked up last of what needs root's eyes.
pub fn plan_home(process: &Process, steps: &mut Steps) {
    let environment = process.env().as_deref().unwrap_or_default();
    if !environment.iter().any(|variable| variable.starts_with("HOME=")) {
        steps.every(Action::Home { uid: process.user().uid() });
    }
}

/// Stand in the working directory, and find the program from there.
pub fn plan_executable(process: &Process, steps: &mut Steps) -> Result<()> {
    steps.every(Action::WorkingDirectory { path: c_path(process.cwd(), "process.cwd")? });
    let program = program(process)?;
    let mut candidates = Vec::new();
    if program.contains('/') {
        candidates.push(c_string(program)?);
    } else {
        let environment = process.env().as_deref().unwrap_or_default();
        let path = environment.iter().rev().find_map(|variable| variable.strip_prefix("PATH="));
        // A relative directory would find what a user left in the working directory.
        for directory in
            path.unwrap_or(DEFAULT_PATH).split(':').filter(|directory| directory.starts_with('/'))
        {
            candidates.push(c_string(format!("{}/{program}", directory.trim_end_matches('/')))?);
        }
        // Engines recognise these words.
        ensure!(!candidates.is_empty(), "exec: {program:?}: executable file not found in $PATH");
    }
    steps.every(Action::FindExecutable { candidates });
    Ok(())
}

fn program(process: &Process) -> Result<&str> {
    let arguments = process.args().as_deref().unwrap_or_default();
    let Some(program) = arguments.first() else { bail!("process.args: must have at least one entry") };
    ensure!(!program.is_empty(), "process.args[0]: is empty");
    Ok(program)
}

pub fn plan_exec(process: &Process, listen: Option<&Listen>, steps: &mut Steps) -> Result<()> {
    let arguments = process.args().iter().flatten();
    let arguments = arguments.map(|argument| c_string(argument.as_str())).collect::<Result<_>>()?;
    steps.every(Action::Exec { arguments, environment: environment(process, listen)? });
    Ok(())
}

/// The environment; of several variables with one name the last counts.
fn environment(process: &Process, listen: Option<&Listen>) -> Result<Vec<CString>> {
    let listed = process.env().as_deref().unwrap_or_default();
    let mut variables: Vec<String> = Vec::with_capacity(listed.len() + 3);
    let mut names = std::collections::HashSet::new();
    let passed = listen.map(passed_sockets).unwrap_or_default();
    for variable in passed.iter().rev() {
        let (name, _) = variable.split_once('=').unwrap_or((variable, ""));
        names.insert(name);
        variables.push(variable.clone());
    }
    for (index, variable) in listed.iter().enumerate().rev() {
        let Some((name, _)) = variable.split_once('=') else {
            bail!("process.env[{index}]: {variable:?} has no \"=\"");
        };
        ensure!(!name.is_empty(), "process.env[{index}]: {variable:?} has no name");
        if names.insert(name) {
            variables.push(variable.clone());
        }
    }
    variables.reverse();
    variables.into_iter().map(c_string).collect()
}

/// sd_listen_fds(3), for a process that is the first of its pid namespace.
fn passed_sockets(listen: &Listen) -> Vec<String> {
    let mut variables = vec![format!("LISTEN_FDS={}", listen.fds), "LISTEN_PID=1".to_string()];
    variables.extend(listen.names.iter().map(|names| format!("LISTEN_FDNAMES={names}")));
    variables
}

/// Everything that is not given to the process on purpose closes when it begins.
pub fn plan_descriptors(request: &Request, steps: &mut Steps) {
    const STANDARD_STREAMS: u32 = 3;
    let listen = request.options.listen.as_ref().map_or(0, |listen| listen.fds);
    steps.every(Action::CloseOnExec { from: STANDARD_STREAMS + listen + request.options.preserve_fds });
}
