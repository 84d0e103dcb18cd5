//! From argv to an exit status. Runs outside.

#![cfg_attr(not(test), no_main)]

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
mod timing;
mod wire;

use std::io::Write;

use nix::errno::Errno;

use cli::{Cli, Command, Exit};
use log::Log;

sys::start::program!(corten);

/// The C library's may be musl's, which asks the kernel for memory at every turn.
#[global_allocator]
static HEAP: dlmalloc::GlobalDlmalloc = dlmalloc::GlobalDlmalloc;

fn corten() -> u8 {
    let begin = sys::stamps::now();
    if let Err(error) = sys::start::prepare() {
        return refuse(
            &format!(
                "put the null device in the place of a closed standard stream: {}",
                sys::strerror(error)
            ),
            1,
        );
    }
    let cli = match cli::parse(sys::start::arguments()) {
        Ok(cli) => cli,
        Err(Exit::Answer(text)) => return answer(&text),
        Err(Exit::Refusal { sentence, status, global }) => {
            if let Some(Ok(log)) = global.as_deref().map(Log::open) {
                log.error(&sentence);
            }
            return refuse(&sentence, status);
        }
    };
    let preserved = commands::check_preserved_fds(&cli.command);
    let log = match Log::open(&cli.global) {
        Ok(log) => log,
        Err(error) => return refuse(&sentence(&error), cli.command.failure_status()),
    };
    let timed = cli.global.timing().map_or(Ok(()), |path| timing::begin(path, title(), begin));
    timing::done("read the command line");
    let performed = preserved.and(timed).and_then(|()| perform(&cli, &log));
    timing::done("the rest");
    commands::tell_times(&log);
    match performed {
        Ok(status) => status,
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
        timing::done("protect the executable");
    }
    sys::process::keep_ended_children().context("keep ended children")?;
    commands::run(cli, log)
}

/// The command's words, as they were given.
fn title() -> String {
    let words = sys::start::arguments().skip(1).map(|word| word.to_string_lossy().into_owned());
    words.collect::<Vec<_>>().join(" ")
}

/// One line of a readable length, whatever is in it, with the system's errors in plain words.
fn sentence(error: &anyhow::Error) -> String {
    const LONGEST_WORD: usize = 256;
    let causes: Vec<String> = error
        .chain()
        .map(|cause| {
            let errno = cause.downcast_ref::<Errno>().copied();
            let system = cause.downcast_ref::<std::io::Error>().and_then(std::io::Error::raw_os_error);
            match errno.or(system.map(Errno::from_raw)) {
                Some(errno) => sys::strerror(errno),
                None => cause.to_string(),
            }
        })
        .collect();
    let words = causes.join(": ");
    // A container that has its say in a sentence must not speak to the terminal that shows it.
    let harmless = words.replace(|letter: char| letter.is_control() && letter != '\n', "\u{fffd}");
    let shortened = harmless.split([' ', '\n']).map(|word| match word.char_indices().nth(LONGEST_WORD) {
        Some((end, _)) => format!("{}...", &word[..end]),
        None => word.to_string(),
    });
    shortened.collect::<Vec<_>>().join(" ")
}

fn answer(text: &str) -> u8 {
    let mut out = std::io::stdout().lock();
    u8::from(out.write_all(text.as_bytes()).and_then(|()| out.flush()).is_err())
}

fn refuse(sentence: &str, status: u8) -> u8 {
    // Whoever closed it does not want to know; the exit status and the log still say it.
    let _ = writeln!(std::io::stderr(), "{sentence}");
    status
}
