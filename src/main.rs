//! From argv to an exit status. Runs outside.

mod cli;
mod commands;
mod container;
mod host;
mod init;
mod launch;
mod log;
mod plan;
mod signal;
mod sys;
mod time;
mod wire;

use std::io::Write;
use std::process::ExitCode;

use cli::{Cli, Command, Exit};
use log::Log;

fn main() -> ExitCode {
    let cli = match cli::parse(std::env::args_os()) {
        Ok(cli) => cli,
        Err(Exit::Answer(text)) => return answer(&text),
        Err(Exit::Refusal { sentence, status, global }) => {
            if let Some(Ok(log)) = global.as_deref().map(Log::open) {
                log.error(&sentence);
            }
            return refuse(&sentence, status);
        }
    };
    let log = match Log::open(&cli.global) {
        Ok(log) => log,
        Err(error) => return refuse(&format!("{error:#}"), cli.command.failure_status()),
    };
    match perform(&cli, &log) {
        Ok(status) => ExitCode::from(status),
        Err(error) => {
            let sentence = sentence(&error);
            log.error(&sentence);
            refuse(&sentence, cli.command.failure_status())
        }
    }
}

fn perform(cli: &Cli, log: &Log) -> anyhow::Result<u8> {
    use anyhow::Context;
    if matches!(cli.command, Command::Create(_) | Command::Run(_) | Command::Exec(_)) {
        sys::seal::seal().context("protect the executable of corten")?;
    }
    sys::process::keep_ended_children().context("keep ended children")?;
    commands::run(cli, log)
}

/// One line, whatever is in it.
fn sentence(error: &anyhow::Error) -> String {
    format!("{error:#}").replace('\n', " ")
}

fn answer(text: &str) -> ExitCode {
    match std::io::stdout().write_all(text.as_bytes()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

fn refuse(sentence: &str, status: u8) -> ExitCode {
    eprintln!("{sentence}");
    ExitCode::from(status)
}
