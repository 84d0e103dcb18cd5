//! The process itself: what it runs, where, with which environment, as whom, on which terminal.
//!
//! Runs outside. The same functions serve a container's first process and every guest; `steps.rs` orders them.

use std::ffi::CString;

use anyhow::{Result, bail, ensure};
use oci_spec::runtime::Process;

use super::request::{Console, Listen, Request, c_path, c_string};
use super::steps::Steps;
use super::{Action, HookStreams, IdMapping, Terminal, annotations, idmap, namespaces};

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
        (Console::Socket(_), false) => {
            bail!("process.terminal: is false, so the console socket (--console-socket) gets nothing")
        }
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
        // From the start, not only once the runtime relays: programs look at it first of all.
        None => match request.options.console {
            Console::Foreground(own) => own,
            _ => None,
        },
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
    let groups = if annotations::is_set(request.spec, annotations::KEEP_GROUPS)? {
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

/// Stand in the working directory, which root may enter where its user may not, or the other way round.
pub fn plan_place(process: &Process, again: bool, steps: &mut Steps) -> Result<()> {
    steps.every(Action::WorkingDirectory { path: c_path(process.cwd(), "process.cwd")?, again });
    Ok(())
}

/// Find the program, if need be from the working directory.
pub fn plan_executable(process: &Process, steps: &mut Steps) -> Result<()> {
    let program = program(process)?;
    let mut candidates = Vec::new();
    let in_path = !program.contains('/');
    if !in_path {
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
    steps.every(Action::FindExecutable { candidates, in_path });
    Ok(())
}

fn program(process: &Process) -> Result<&str> {
    let arguments = process.args().as_deref().unwrap_or_default();
    let Some(program) = arguments.first() else { bail!("process.args: must have at least one entry") };
    ensure!(!program.is_empty(), "process.args[0]: exec: \"\": executable file not found in $PATH");
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

/// Everything that is not given to the process on purpose closes when it begins; what the last hooks print to, behind
/// them.
pub fn plan_descriptors(request: &Request, keep: HookStreams, steps: &mut Steps) {
    const STANDARD_STREAMS: u32 = 3;
    let listen = request.options.listen.as_ref().map_or(0, |listen| listen.fds);
    let given = listen.saturating_add(request.options.preserve_fds);
    steps.every(Action::CloseDescriptors { from: given.saturating_add(STANDARD_STREAMS), keep });
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::plan::annotations::KEEP_GROUPS;
    use crate::plan::facts::Authority;
    use crate::plan::testing::Given;

    fn process(members: Value) -> Process {
        let mut whole = json!({"cwd": "/", "args": ["true"]});
        members.as_object().unwrap().iter().for_each(|(name, member)| whole[name] = member.clone());
        crate::plan::bundle::parse_process(whole.to_string().as_bytes()).unwrap().0
    }

    fn last_action(planner: impl FnOnce(&mut Steps) -> Result<()>) -> Result<Action> {
        let mut steps = Steps::new(Authority::Root);
        planner(&mut steps)?;
        Ok(steps.finish().steps.pop().unwrap().action)
    }

    fn variables(members: Value, listen: Option<&Listen>) -> Vec<String> {
        let environment = environment(&process(members), listen).unwrap();
        environment.into_iter().map(|variable| variable.into_string().unwrap()).collect()
    }

    #[test]
    fn of_variables_with_one_name_the_last_counts() {
        assert_eq!(variables(json!({"env": ["A=1", "B=2", "A=3", "C="]}), None), ["B=2", "A=3", "C="]);
    }

    #[test]
    fn passed_sockets_are_announced_and_cannot_be_denied() {
        let listen = Listen { fds: 2, names: Some("http:https".to_string()) };
        assert_eq!(
            variables(json!({"env": ["LISTEN_FDS=7", "A=1"]}), Some(&listen)),
            ["A=1", "LISTEN_FDS=2", "LISTEN_PID=1", "LISTEN_FDNAMES=http:https"]
        );
        assert_eq!(variables(json!({"env": ["LISTEN_FDS=7"]}), None), ["LISTEN_FDS=7"]);
    }

    fn candidates(members: Value) -> Vec<String> {
        let action = last_action(|steps| plan_executable(&process(members), steps)).unwrap();
        let Action::FindExecutable { candidates, .. } = action else { panic!("{action:?}") };
        candidates.into_iter().map(|candidate| candidate.into_string().unwrap()).collect()
    }

    #[test]
    fn a_program_is_looked_for_in_absolute_directories_of_the_containers_path() {
        let env = json!(["PATH=/none", "PATH=/bin:.:/opt//:relative:"]);
        assert_eq!(candidates(json!({"args": ["sh"], "env": env})), ["/bin/sh", "/opt/sh"]);
        assert_eq!(candidates(json!({"args": ["sh"]}))[0], "/usr/local/sbin/sh");
    }

    #[test]
    fn a_program_with_a_slash_is_where_it_says() {
        assert_eq!(candidates(json!({"args": ["bin/sh"], "cwd": "/srv"})), ["bin/sh"]);
    }

    #[test]
    fn a_path_without_an_absolute_directory_finds_nothing() {
        let process = process(json!({"args": ["sh"], "env": ["PATH=.:bin"]}));
        let error = last_action(|steps| plan_executable(&process, steps)).unwrap_err();
        assert_eq!(error.to_string(), "exec: \"sh\": executable file not found in $PATH");
    }

    fn groups(given: &Given, members: Value) -> Result<Option<Vec<u32>>> {
        let action = last_action(|steps| plan_user(&given.request(), &process(members), steps))?;
        let Action::SetUser { groups, .. } = action else { panic!("{action:?}") };
        Ok(groups)
    }

    #[test]
    fn supplementary_groups_are_exactly_those_asked_for() {
        let given = Given::new(json!({}));
        assert_eq!(groups(&given, json!({})).unwrap(), Some(vec![]));
        let user = json!({"uid": 1, "gid": 1, "additionalGids": [5, 6]});
        assert_eq!(groups(&given, json!({"user": user})).unwrap(), Some(vec![5, 6]));
    }

    #[test]
    fn groups_stay_where_setgroups_is_denied_or_an_annotation_asks_for_it() {
        let kept = Given::new(json!({"annotations": {KEEP_GROUPS: "1"}}));
        assert_eq!(groups(&kept, json!({})).unwrap(), None);
        let mut denied = Given::new(json!({})).run_by(Authority::NamespacedRoot);
        denied.facts.setgroups = false;
        assert_eq!(groups(&denied, json!({})).unwrap(), None);
        let user = json!({"uid": 0, "gid": 0, "additionalGids": [5]});
        assert!(
            groups(&denied, json!({"user": user})).unwrap_err().to_string().contains("setgroups is denied")
        );
    }

    #[test]
    fn ids_must_be_mapped_in_a_new_user_namespace() {
        let map = json!([{"containerID": 0, "hostID": 1000, "size": 10}]);
        let given = Given::new(json!({"linux": {
            "namespaces": [{"type": "user"}], "uidMappings": map, "gidMappings": map,
        }}));
        let refusal = |user: Value| groups(&given, json!({"user": user})).unwrap_err().to_string();
        let unmapped = "is not mapped in the container's user namespace";
        assert_eq!(refusal(json!({"uid": 10, "gid": 0})), format!("process.user.uid: 10 {unmapped}"));
        assert_eq!(refusal(json!({"uid": 9, "gid": 11})), format!("process.user.gid: 11 {unmapped}"));
        let user = json!({"uid": 9, "gid": 9, "additionalGids": [9, 12]});
        assert_eq!(refusal(user), format!("process.user.additionalGids[1]: 12 {unmapped}"));
    }

    #[test]
    fn cve_2024_21626_everything_above_the_given_descriptors_closes() {
        let mut given = Given::new(json!({}));
        given.options.preserve_fds = 2;
        given.options.listen = Some(Listen { fds: 1, names: None });
        let action = last_action(|steps| {
            plan_descriptors(&given.request(), HookStreams::default(), steps);
            Ok(())
        });
        assert!(matches!(action.unwrap(), Action::CloseDescriptors { from: 6, .. }));
    }

    #[test]
    fn home_is_looked_up_only_where_it_is_not_given() {
        let planned = |members: Value| {
            let mut steps = Steps::new(Authority::Root);
            plan_home(&process(members), &mut steps);
            steps.finish().steps.len()
        };
        assert_eq!(planned(json!({"env": ["HOME="]})), 0);
        assert_eq!(planned(json!({"env": ["HOMEPAGE=x"]})), 1);
    }

    #[test]
    fn a_terminal_and_whoever_takes_it_come_together() {
        let planned = |console: Console, terminal: bool| {
            let mut given = Given::new(json!({}));
            given.options.console = console;
            let process = process(json!({"terminal": terminal, "consoleSize": {"height": 24, "width": 80}}));
            let mut steps = Steps::new(Authority::Root);
            plan_terminal(&given.request(), &process, &mut steps).map(|()| steps.outside.terminal)
        };
        let size = Some(Terminal { rows: 24, columns: 80 });
        assert_eq!(planned(Console::Foreground(None), true).unwrap(), size);
        assert_eq!(planned(Console::Socket("/s".into()), true).unwrap(), size);
        assert_eq!(planned(Console::Foreground(None), false).unwrap(), None);
        assert_eq!(planned(Console::None, false).unwrap(), None);
        planned(Console::None, true).unwrap_err();
        planned(Console::Socket("/s".into()), false).unwrap_err();
    }
}
