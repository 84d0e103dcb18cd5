//! Usage errors in one sentence each. Runs outside; knows clap's kinds of error, decides nothing.

use std::error::Error as _;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Args, Command};

use super::GlobalOptions;

pub fn sentence(error: &clap::Error, command: Option<&str>) -> String {
    let complaint = complaint(error);
    match command {
        Some(command) => format!("{command}: {complaint}"),
        None => complaint,
    }
}

fn complaint(error: &clap::Error) -> String {
    let argument = argument(error);
    let value = text(error, ContextKind::InvalidValue);
    match error.kind() {
        ErrorKind::UnknownArgument if is_global(&argument) => {
            format!("option {argument} goes before the command")
        }
        ErrorKind::UnknownArgument if argument.starts_with('-') => format!("unknown option {argument:?}"),
        ErrorKind::UnknownArgument => format!("unexpected argument {argument:?}"),
        ErrorKind::InvalidSubcommand => {
            format!("unknown command {:?}", text(error, ContextKind::InvalidSubcommand))
        }
        ErrorKind::MissingSubcommand | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            "no command is given; --help lists them".into()
        }
        ErrorKind::MissingRequiredArgument => format!("missing argument: {argument}"),
        ErrorKind::InvalidValue if value.is_empty() => format!("option {argument} requires an argument"),
        ErrorKind::InvalidValue => {
            let choices = text(error, ContextKind::ValidValue);
            format!("option {argument}: {value:?} is none of {choices}")
        }
        ErrorKind::TooManyValues => format!("option {argument}: {value:?} is neither true nor false"),
        ErrorKind::ValueValidation => {
            let cause = error.source().map(ToString::to_string).unwrap_or_default();
            let kind = if argument.starts_with('-') { "option" } else { "argument" };
            format!("{kind} {argument}: {cause}")
        }
        ErrorKind::InvalidUtf8 => "an argument is not UTF-8".into(),
        _ => {
            let rendered = error.render().to_string();
            let first = rendered.lines().next().unwrap_or_default();
            first.strip_prefix("error: ").unwrap_or(first).to_owned()
        }
    }
}

/// `--bundle` of clap's `--bundle <DIR>`, `CONTAINER-ID` of its `<CONTAINER-ID>`.
fn argument(error: &clap::Error) -> String {
    let argument = text(error, ContextKind::InvalidArg);
    if !argument.starts_with('-') {
        return argument.replace(['<', '>', '[', ']'], "").replace("...", "");
    }
    let end = argument.find([' ', '=', '[']).unwrap_or(argument.len());
    argument[..end].to_owned()
}

fn is_global(argument: &str) -> bool {
    let definition = GlobalOptions::augment_args(Command::new(""));
    definition.get_arguments().any(|option| option.get_long() == argument.strip_prefix("--"))
}

fn text(error: &clap::Error, kind: ContextKind) -> String {
    match error.get(kind) {
        Some(ContextValue::String(text)) => text.clone(),
        Some(ContextValue::Strings(texts)) => texts.join(", "),
        _ => String::new(),
    }
}
