//! From argv to an exit status. Runs outside.
#![allow(dead_code, reason = "the commands are not wired yet")]

mod cli;
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

use std::process::ExitCode;

use cli::Exit;
use log::Log;

fn main() -> ExitCode {
    match cli::parse(std::env::args_os()) {
        Ok(cli) => {
            println!("{cli:?}");
            ExitCode::SUCCESS
        }
        Err(Exit::Answer(text)) => {
            print!("{text}");
            ExitCode::SUCCESS
        }
        Err(Exit::Refusal { sentence, status, global }) => {
            if let Some(Ok(log)) = global.as_deref().map(Log::open) {
                log.error(&sentence);
            }
            eprintln!("{sentence}");
            ExitCode::from(status)
        }
    }
}
