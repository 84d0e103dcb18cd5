//! What the user asked for: one file per command.
//!
//! Runs outside. Turns options into calls of `launch/` and `container/`, and results into output.

mod birth;
mod checkpoint;
mod create;
mod delete;
mod events;
mod exec;
mod features;
mod kill;
mod list;
mod pause;
mod plan;
mod ps;
mod restore;
mod run;
mod spec;
mod start;
mod state;
mod update;

use std::io::Write;
use std::path::PathBuf;

use anyhow::{Context as _, Result, bail, ensure};
use regex_lite::Regex;

use crate::cli::{Cli, Command, GlobalOptions};
use crate::container::store::Store;
use crate::log::Log;
use crate::plan::{Plan, print};
use crate::sys::fd::is_open;
use crate::timing;

/// What every command has at hand.
pub struct Context<'a> {
    pub global: &'a GlobalOptions,
    pub log: &'a Log,
    pub store: Store,
}

impl Context<'_> {
    /// Have the log say what is odd about a plan, and with `--debug` all that is planned.
    pub fn tell(&self, id: &str, plan: &Plan) {
        plan.warnings.iter().for_each(|warning| self.log.warn(warning));
        self.log.debug(|| format!("plan of {id}:\n{}", print::text(plan)));
    }

    /// The id itself, or with `--regex` those that match it.
    pub fn matching(&self, id: &str, regex: bool) -> Result<Vec<String>> {
        if !regex {
            return Ok(vec![id.to_string()]);
        }
        let pattern = Regex::new(id).with_context(|| format!("{id:?} is not a regular expression"))?;
        Ok(self.store.ids()?.into_iter().filter(|id| pattern.is_match(id)).collect())
    }
}

/// Write down what took how long, if anybody asked for it. No reason to fail.
pub fn tell_times(log: &Log) {
    if let Err(error) = timing::write() {
        log.warn(&format!("{error:#}"));
    }
}

/// Descriptors that the caller says it passes on must be open, or one that we open next would take their place. To be
/// called before anything is opened.
pub fn check_preserved_fds(command: &Command) -> Result<()> {
    let listened = || birth::listen_fds().map_or(0, |listen| listen.fds);
    let (count, listened) = match command {
        Command::Create(options) => (options.birth.preserve_fds, listened()),
        Command::Run(options) => (options.birth.preserve_fds, listened()),
        // Sockets are for the container's first process.
        Command::Exec(options) => (options.preserve_fds, 0),
        Command::Checkpoint(options) => return checkpoint::check_status_fd(options),
        _ => return Ok(()),
    };
    let given = |number: &u32| i32::try_from(*number).is_ok_and(is_open);
    match (3..=u32::MAX).find(|number| !given(number)) {
        Some(missing) if u64::from(missing) < 3 + u64::from(listened) + u64::from(count) => {
            let passed = if listened > 0 { format!(" and LISTEN_FDS={listened}") } else { String::new() };
            bail!("--preserve-fds {count}{passed}: descriptor {missing} is not open")
        }
        _ => Ok(()),
    }
}

/// Perform a command; the result is the program's exit status.
pub fn run(cli: &Cli, log: &Log) -> Result<u8> {
    let context = Context { global: &cli.global, log, store: Store::new(root(&cli.global)?) };
    match &cli.command {
        Command::Create(options) => create::create(&context, options),
        Command::Start(options) => start::start(&context, options),
        Command::Run(options) => return run::run(&context, options),
        Command::Exec(options) => return exec::exec(&context, options),
        Command::State(options) => state::state(&context, options),
        Command::Kill(options) => kill::kill(&context, options),
        Command::Pause(options) => pause::pause(&context, options),
        Command::Resume(options) => pause::resume(&context, options),
        Command::Update(options) => update::update(&context, options),
        Command::Delete(options) => delete::delete(&context, options),
        Command::List(options) => list::list(&context, options),
        Command::Ps(options) => ps::ps(&context, options),
        Command::Events(options) => events::events(&context, options),
        Command::Checkpoint(options) => checkpoint::checkpoint(&context, options),
        Command::Restore(options) => return restore::restore(&context, options),
        Command::Spec(options) => spec::spec(options),
        Command::Features => features::features(),
        Command::Plan(options) => plan::plan(&context, options),
    }
    .map(|()| 0)
}

/// `--root`, or the usual place: `/run/corten`, and for others than root a directory of their own.
fn root(global: &GlobalOptions) -> Result<PathBuf> {
    if let Some(root) = &global.root {
        let root = std::path::absolute(root).with_context(|| format!("--root {root:?}"))?;
        let is_top = root.parent().is_none() || root.canonicalize().is_ok_and(|real| real.parent().is_none());
        ensure!(!is_top, "--root must not be the root directory");
        return Ok(root);
    }
    match std::env::var_os("XDG_RUNTIME_DIR") {
        Some(directory) if !directory.is_empty() && !is_root()? => {
            Ok(PathBuf::from(directory).join("corten"))
        }
        _ => Ok(PathBuf::from("/run/corten")),
    }
}

/// Whether `/run` is ours. Podman without root calls as uid 0 of a user namespace, with `XDG_RUNTIME_DIR` and little
/// else in the environment; root of a system container has a user namespace as well, but is named so.
fn is_root() -> Result<bool> {
    let named_root = || std::env::var_os("USER").is_some_and(|user| user == "root");
    Ok(nix::unistd::geteuid().is_root() && (named_root() || crate::plan::facts::in_initial_user_namespace()?))
}

/// Print on standard output; a reader that has gone away is an error like any other.
fn print(text: &str) -> Result<()> {
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).context("write to standard output")
}

/// Print a document as indented JSON and a line feed.
fn print_json(document: &impl serde::Serialize) -> Result<()> {
    let mut text = serde_json::to_string_pretty(document).context("write JSON")?;
    text.push('\n');
    print(&text)
}
