//! Hooks that run in the runtime's own namespaces: prestart, createRuntime, poststart and poststop.
//!
//! Runs outside. A hook's environment is what the configuration says, or the runtime's own where it says nothing, and
//! never the container's (CVE-2025-23266).

use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;

use anyhow::{Context, Result, bail};
use nix::fcntl::{OFlag, open};
use nix::sys::stat::Mode;

use crate::plan::{Hook, HookPoint};
use crate::sys::process::Ended;
use crate::sys::program::{self, Outcome, Program};
use crate::sys::strerror;

/// Run hooks in order, each with the container's state in JSON on its standard input; the first failure is the end.
pub fn run(point: HookPoint, hooks: &[Hook], state: &[u8]) -> Result<()> {
    for (number, hook) in hooks.iter().enumerate() {
        run_one(hook, state).with_context(|| place(point, number, &hook.path.to_string_lossy()))?;
    }
    Ok(())
}

/// Which hook it is, as errors name it.
pub fn place(point: HookPoint, number: usize, path: &str) -> String {
    format!("{} hook {number} ({path})", point.name())
}

fn run_one(hook: &Hook, state: &[u8]) -> Result<()> {
    let said = program::memory_file().context("make a file in memory")?;
    let opened = |path: &Option<CString>| path.as_deref().map(open_output).transpose();
    let (stdout, stderr) = (opened(&hook.stdout)?, opened(&hook.stderr)?);
    let inherited;
    let environment = match &hook.environment {
        Some(environment) => environment,
        None => {
            inherited = own_environment()?;
            &inherited
        }
    };
    let outcome = program::run(&Program {
        path: &hook.path,
        arguments: &hook.arguments,
        environment,
        input: &[state],
        stdout: Some(stdout.as_ref().unwrap_or(&said).as_fd()),
        stderr: Some(stderr.as_ref().unwrap_or(&said).as_fd()),
        timeout_ms: hook.timeout_ms,
    })
    .context("run it")?;
    match outcome {
        Outcome::Ended(Ended::Exited(0)) => Ok(()),
        Outcome::NotStarted(errno) => bail!("cannot be executed: {}", strerror(errno)),
        Outcome::TimedOut => bail!("took longer than its timeout{}", saying(&program::last_words(&said))),
        Outcome::Ended(ended) => bail!("{ended}{}", saying(&program::last_words(&said))),
    }
}

/// A file that what hooks print is added to.
pub fn open_output(path: &CStr) -> Result<OwnedFd> {
    let flags = OFlag::O_WRONLY | OFlag::O_APPEND | OFlag::O_CREAT | OFlag::O_NOCTTY | OFlag::O_CLOEXEC;
    let mode = Mode::S_IRUSR | Mode::S_IWUSR;
    open(path, flags, mode).with_context(|| format!("open {path:?}, for what hooks print"))
}

/// What a hook printed last, on one line, to end a sentence with.
pub fn saying(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    let words: Vec<&str> = text.split_whitespace().collect();
    if words.is_empty() { String::new() } else { format!(", saying: {}", words.join(" ")) }
}

pub fn own_environment() -> Result<Vec<CString>> {
    std::env::vars_os()
        .map(|(mut name, value)| {
            name.push("=");
            name.push(value);
            CString::new(name.into_vec()).context("an environment variable with a NUL byte")
        })
        .collect()
}
