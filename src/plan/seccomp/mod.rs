//! From `linux.seccomp` to a filter that the kernel takes.
//!
//! Pure: what the running kernel can do is passed in. The child loads [`Filter::program`], the parent
//! hands the listener over; neither knows what a rule is.

mod frame;
mod machine;
mod names;
mod precedence;
mod raw;
mod rules;
#[cfg(test)]
mod tests;
pub mod words;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use oci_spec::runtime::{LinuxSeccomp, LinuxSeccompAction, LinuxSyscall};
use seccompiler::sock_filter;

use super::annotations::SECCOMP_STRICT;
use frame::Section;
use machine::Architecture;
pub use machine::FAMILY as ARCHITECTURES;
use rules::{Rule, Verdict};
use words::{action_of, flag_of};

/// BPF_MAXINSNS
const LONGEST_PROGRAM: usize = 4096;
const LAST_ARGUMENT: usize = 5;
/// What a call of an architecture that the profile does not name gets, by libseccomp's default.
const FOREIGN: u32 = libc::SECCOMP_RET_KILL_THREAD;
const NO_SUCH_CALL: u32 = libc::SECCOMP_RET_ERRNO | libc::ENOSYS as u32;

/// A compiled filter and how it is loaded.
#[derive(Debug, Default)]
pub struct Filter {
    pub program: Vec<sock_filter>,
    /// `SECCOMP_FILTER_FLAG_*`
    pub flags: u64,
    /// Who answers notifications; there is one exactly when `flags` asks for a listener.
    pub listener: Option<Listener>,
    pub warnings: Vec<String>,
}

/// Where the listening descriptor goes, and what goes with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listener {
    pub path: PathBuf,
    pub metadata: String,
}

/// What comes from elsewhere than the profile.
#[derive(Clone, Debug, Default)]
pub struct Wishes<'a> {
    /// `SECCOMP_FILTER_FLAG_*` that the kernel knows.
    pub kernel_flags: u64,
    /// Who is asked where the profile names nobody.
    pub receiver: Option<&'a Path>,
    /// A name that this machine does not know is an error, not a warning.
    pub strict: bool,
}

/// Compile a profile for this machine.
pub fn plan(spec: &LinuxSeccomp, wishes: &Wishes) -> Result<Filter> {
    plan_for(spec, wishes, ARCHITECTURES)
}

/// A program that comes compiled, in base64. Of a profile beside it the flags and the listener count.
pub fn plan_raw(text: &str, spec: Option<&LinuxSeccomp>, wishes: &Wishes) -> Result<Filter> {
    let program = raw::program(text)?;
    let absent = LinuxSeccomp::default();
    let spec = spec.unwrap_or(&absent);
    // What it asks of whom only the program knows.
    let listener = listener_path(spec, wishes).map(|path| named_listener(spec, path));
    let mut warnings = Vec::new();
    let flags = flags(spec, wishes.kernel_flags, listener.is_some(), &mut warnings)?;
    Ok(Filter { program, flags, listener, warnings })
}

fn plan_for(spec: &LinuxSeccomp, wishes: &Wishes, family: &[Architecture]) -> Result<Filter> {
    let mut warnings = Vec::new();
    let listener = listener(spec, wishes)?;
    let kernel_flags = wishes.kernel_flags;
    let flags = flags(spec, kernel_flags, listener.is_some(), &mut warnings)?;
    let default = action(spec.default_action(), spec.default_errno_ret(), || {
        "linux.seccomp.defaultErrnoRet".to_owned()
    })?;
    let rules = rules(spec)?;
    let unknown = unknown_names(spec, family);
    if let Some(name) = unknown.first().filter(|_| wishes.strict) {
        bail!("linux.seccomp.syscalls: this machine has no {name}, and {SECCOMP_STRICT} is set");
    }
    if !unknown.is_empty() {
        warnings.push(format!("linux.seccomp.syscalls: this machine has no {}: ignored", unknown.join(", ")));
    }
    let program = frame::assemble(&sections(spec, &rules, default, family), default, FOREIGN)?;
    let length = program.len();
    ensure!(
        length <= LONGEST_PROGRAM,
        "linux.seccomp: the filter needs {length} instructions, the kernel takes {LONGEST_PROGRAM}"
    );
    Ok(Filter { program, flags, listener, warnings })
}

fn calls(spec: &LinuxSeccomp) -> &[LinuxSyscall] {
    spec.syscalls().as_deref().unwrap_or_default()
}

/// Who is asked, when any rule asks. The runtime itself must write(2) to hand the descriptor over, which
/// nobody could answer yet.
fn listener(spec: &LinuxSeccomp, wishes: &Wishes) -> Result<Option<Listener>> {
    const NOTIFY: LinuxSeccompAction = LinuxSeccompAction::ScmpActNotify;
    if spec.listener_metadata().is_some() && listener_path(spec, wishes).is_none() {
        bail!("linux.seccomp.listenerMetadata: meaningless without listenerPath");
    }
    if spec.default_action() == NOTIFY {
        bail!("linux.seccomp.defaultAction: SCMP_ACT_NOTIFY cannot be the default action");
    }
    let mut asked = false;
    for (at, call) in calls(spec).iter().enumerate().filter(|(_, call)| call.action() == NOTIFY) {
        if call.names().iter().any(|name| name == "write") {
            bail!("linux.seccomp.syscalls[{at}]: SCMP_ACT_NOTIFY cannot be used for write");
        }
        asked = true;
    }
    if !asked {
        return Ok(None);
    }
    let path = listener_path(spec, wishes);
    let path = path.context("linux.seccomp.listenerPath: required, because a rule has SCMP_ACT_NOTIFY")?;
    Ok(Some(named_listener(spec, path)))
}

fn listener_path<'a>(spec: &'a LinuxSeccomp, wishes: &Wishes<'a>) -> Option<&'a Path> {
    spec.listener_path().as_deref().or(wishes.receiver)
}

fn named_listener(spec: &LinuxSeccomp, path: &Path) -> Listener {
    Listener { path: path.to_path_buf(), metadata: spec.listener_metadata().clone().unwrap_or_default() }
}

fn flags(spec: &LinuxSeccomp, kernel_flags: u64, listening: bool, warnings: &mut Vec<String>) -> Result<u64> {
    const WAIT_KILLABLE: u64 = libc::SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV;
    let mut flags = if listening { libc::SECCOMP_FILTER_FLAG_NEW_LISTENER } else { 0 };
    let Some(words) = spec.flags() else {
        return Ok(flags | (libc::SECCOMP_FILTER_FLAG_SPEC_ALLOW & kernel_flags));
    };
    for (at, word) in words.iter().enumerate() {
        let flag = flag_of(*word);
        if flag.bit & kernel_flags != flag.bit {
            bail!("linux.seccomp.flags[{at}]: this kernel does not know {}", flag.name);
        }
        if flag.bit == WAIT_KILLABLE && !listening {
            warnings.push(format!("linux.seccomp.flags[{at}]: no rule has SCMP_ACT_NOTIFY: ignored"));
            continue;
        }
        flags |= flag.bit;
    }
    Ok(flags)
}

/// The kernel's word for an action, with the errno in it.
fn action(spec: LinuxSeccompAction, errno: Option<u32>, place: impl Fn() -> String) -> Result<u32> {
    let action = action_of(spec);
    match errno {
        None if action.takes_errno => Ok(action.value | libc::EPERM as u32),
        None => Ok(action.value),
        Some(_) if !action.takes_errno => bail!("{}: {} returns no errno", place(), action.name),
        Some(errno) => {
            let data = u16::try_from(errno).ok();
            let data = data.with_context(|| format!("{}: {errno} is not an errno", place()))?;
            Ok(action.value | u32::from(data))
        }
    }
}

fn rules(spec: &LinuxSeccomp) -> Result<Vec<Rule<'_>>> {
    let mut rules = Vec::new();
    for (at, call) in calls(spec).iter().enumerate() {
        let place = || format!("linux.seccomp.syscalls[{at}].errnoRet");
        let action = action(call.action(), call.errno_ret(), place)?;
        for (nth, arg) in call.args().iter().flatten().enumerate() {
            let index = arg.index();
            if index > LAST_ARGUMENT {
                bail!("linux.seccomp.syscalls[{at}].args[{nth}].index: {index} is above {LAST_ARGUMENT}");
            }
        }
        rules::expand(call, action, &mut rules);
    }
    Ok(rules)
}

fn unknown_names<'a>(spec: &'a LinuxSeccomp, family: &[Architecture]) -> Vec<&'a str> {
    let known = |name: &str| family.iter().any(|architecture| architecture.knows(name));
    let names = calls(spec).iter().flat_map(LinuxSyscall::names).map(String::as_str);
    let mut unknown: Vec<&str> = names.filter(|name| !known(name)).collect();
    unknown.sort_unstable();
    unknown.dedup();
    unknown
}

fn sections<'a>(
    spec: &LinuxSeccomp,
    rules: &[Rule],
    default: u32,
    family: &'a [Architecture],
) -> Vec<Section<'a>> {
    let native = &family[0];
    let wanted = spec.architectures().as_deref().unwrap_or_default();
    let section = |architecture: &'a Architecture| {
        if architecture.spec == native.spec || wanted.contains(&architecture.spec) {
            let verdicts = rules::verdicts(rules, default, architecture);
            let newer = verdicts.newest.filter(|_| hides_newer_calls(default));
            Some(Section {
                architecture,
                calls: verdicts.calls,
                otherwise: Verdict::Always(default),
                newer: newer.map(|newest| (newest + 1, Verdict::Always(NO_SUCH_CALL))),
            })
        } else if architecture.audit == native.audit {
            Some(Section {
                architecture,
                // A tracer makes a call -1 to have it skipped.
                calls: vec![(u32::MAX, Verdict::Always(default))],
                otherwise: Verdict::Always(FOREIGN),
                newer: None,
            })
        } else {
            None
        }
    };
    family.iter().filter_map(section).collect()
}

/// A program that tries a call newer than its container's profile must learn that it does not exist, and
/// not that it is forbidden: only then it falls back to an older one (clone3, faccessat2).
fn hides_newer_calls(default: u32) -> bool {
    const PERMISSIVE: [u32; 3] = [libc::SECCOMP_RET_ALLOW, libc::SECCOMP_RET_LOG, libc::SECCOMP_RET_TRACE];
    !PERMISSIVE.contains(&(default & libc::SECCOMP_RET_ACTION_FULL))
}
