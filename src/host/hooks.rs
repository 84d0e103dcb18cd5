//! Hooks that run in the runtime's own namespaces: prestart, createRuntime, poststart and poststop.
//!
//! Runs outside. A hook's environment is what the configuration says, or the runtime's own where it says nothing, and
//! never the container's (CVE-2025-23266).

use std::ffi::CString;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStringExt;

use anyhow::{Context, Result, bail};

use crate::plan::{Hook, HookPoint};
use crate::sys::process::Ended;
use crate::sys::program::{self, Outcome, Program};

/// Run hooks in order, each with the container's state in JSON on its standard input; the first failure is the end.
pub fn run(point: HookPoint, hooks: &[Hook], state: &[u8]) -> Result<()> {
    for (number, hook) in hooks.iter().enumerate() {
        run_one(hook, state)
            .with_context(|| format!("{} hook {number} ({})", point.name(), hook.path.to_string_lossy()))?;
    }
    Ok(())
}

fn run_one(hook: &Hook, state: &[u8]) -> Result<()> {
    let output = program::memory_file().context("make a file in memory")?;
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
        output: Some(output.as_fd()),
        timeout_ms: hook.timeout_ms,
    })
    .context("run it")?;
    match outcome {
        Outcome::Ended(Ended::Exited(0)) => Ok(()),
        Outcome::NotStarted(errno) => bail!("cannot be executed: {}", errno.desc()),
        Outcome::TimedOut => bail!("took longer than its timeout{}", saying(&program::last_words(&output))),
        Outcome::Ended(ended) => bail!("{ended}{}", saying(&program::last_words(&output))),
    }
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
