//! The command line: from argv to one command with its options, or to the answer or refusal that ends the program.
//! Runs outside, before anything else. Declares and parses; opens nothing and performs nothing.

mod options;
mod refusal;
mod words;

pub use options::*;

use std::ffi::{OsStr, OsString};
use std::path::Path;

use clap::error::ErrorKind;
use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};

use words::{Order, Words};

const NAME: &str = "corten";
const VERSION: &str = env!("CARGO_PKG_VERSION");

/// The version of the runtime specification that this program implements.
pub const SPEC_VERSION: &str = "1.3.0";

/// Names that `--version` answers with when the program is installed under one of them, for callers that check it.
const ALIASES: &[&str] = &["runc", "crun", "youki"];

/// Run containers described by OCI bundles
#[derive(Debug, Parser)]
#[command(name = NAME, version = VERSION, disable_version_flag = true, args_override_self = true)]
pub struct Cli {
    #[command(flatten)]
    pub global: GlobalOptions,
    #[command(subcommand)]
    pub command: Command,
}

// Deferred: only the command that was named pays for building its options.
#[derive(Debug, Subcommand)]
#[command(defer = true)]
pub enum Command {
    /// Create a container from a bundle; its process waits for `start`
    Create(Create),
    /// Start the process of a created container
    Start(Start),
    /// Create and start a container, and wait for it unless detached
    Run(Run),
    /// Run another process in a container
    Exec(Exec),
    /// Print a container's state as JSON
    State(State),
    /// Send a signal to a container's first process
    Kill(Kill),
    /// Remove a stopped container and everything made for it
    Delete(Delete),
    /// List the containers under the state root
    List(List),
    /// Show the processes of a container
    Ps(Ps),
    /// Write a config.json to start from
    Spec(Spec),
    /// Print what this runtime supports, as JSON
    Features,
    /// Print the steps that `create` would perform; needs no privileges
    Plan(Plan),
}

/// Why there is no command to perform.
#[derive(Debug)]
pub enum Exit {
    /// Text for standard output; the exit status is 0.
    Answer(String),
    /// A usage error: one sentence for standard error, and for the log where the global options could be read.
    Refusal { sentence: String, status: u8, global: Option<Box<GlobalOptions>> },
}

/// Commands that hand the words after the container's id to another program, or take `-9` for a signal.
const OPTIONS_FIRST: &[&str] = &["exec", "kill", "ps"];

/// `argv` begins with the program's own name.
pub fn parse(argv: impl IntoIterator<Item = OsString>) -> Result<Cli, Exit> {
    let mut argv = argv.into_iter();
    let program = argv.next().unwrap_or_default();
    let mut definition = Cli::command().no_binary_name(true);
    let Words { options: global, positionals } =
        words::split(&definition, Order::OptionsFirst, argv.collect());

    let mut line = global.clone();
    let name = positionals.first().and_then(|first| first.to_str());
    let name = name.filter(|name| definition.find_subcommand(name).is_some());
    if let Some(name) = name {
        let order = if OPTIONS_FIRST.contains(&name) { Order::OptionsFirst } else { Order::Mixed };
        definition = definition.mut_subcommand(name, |command| {
            let mut command = command.args_override_self(true);
            command.build();
            line.push(name.into());
            line.extend(words::split(&command, order, positionals[1..].to_vec()).into_line());
            command
        });
    } else {
        line.extend_from_slice(&positionals);
    }
    let parsed = definition.try_get_matches_from_mut(line);
    parsed
        .and_then(|mut matches| Cli::from_arg_matches_mut(&mut matches))
        .map_err(|error| exit(&error, &program, global, name))
}

fn exit(error: &clap::Error, program: &OsStr, global: Vec<OsString>, command: Option<&str>) -> Exit {
    match error.kind() {
        ErrorKind::DisplayHelp => Exit::Answer(error.render().to_string()),
        ErrorKind::DisplayVersion => Exit::Answer(version(program)),
        _ => {
            let global = global_alone(global);
            // Where the global options are at fault, the command is not.
            let sentence = refusal::sentence(error, command.filter(|_| global.is_some()));
            Exit::Refusal { sentence, status: failure_status(command), global }
        }
    }
}

/// What could be read of the global options although something else on the line is wrong.
fn global_alone(options: Vec<OsString>) -> Option<Box<GlobalOptions>> {
    let definition = Cli::command().subcommand_required(false).arg_required_else_help(false);
    let matches = definition.no_binary_name(true).try_get_matches_from(options).ok()?;
    GlobalOptions::from_arg_matches(&matches).ok().map(Box::new)
}

/// Callers of `exec` must be able to tell the runtime's failure from their program's.
fn failure_status(command: Option<&str>) -> u8 {
    if command == Some("exec") { 255 } else { 1 }
}

fn version(program: &OsStr) -> String {
    let program = Path::new(program).file_name().unwrap_or_default();
    let name = ALIASES.iter().find(|alias| program == **alias).unwrap_or(&NAME);
    let commit = option_env!("CORTEN_COMMIT").unwrap_or("unknown");
    format!("{name} version {VERSION}\ncommit: {commit}\nspec: {SPEC_VERSION}\n")
}
