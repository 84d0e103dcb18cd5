//! Times and measures a container runtime beside others and beside the limit programs. `hack/bench` prepares the
//! directory that this program is run in, and cleans up.
//!
//!     bench [--rounds N] [--only WORDS] [--systemd] NAME=RUNTIME...
//!     bench --scale DIRECTORY NAME=RUNTIME...
//!     bench --guard FILE NAME=RUNTIME...
//!
//! The first runtime is the one that the others are there for.

mod figures;
mod plot;
mod runtime;
mod scale;
mod table;

use std::path::PathBuf;

use anyhow::{Context, Result, bail};

use runtime::Runtime;

#[derive(Default)]
struct Options {
    rounds: Option<usize>,
    /// Only works whose name contains this.
    only: String,
    systemd: bool,
    scale: Option<PathBuf>,
    guard: Option<PathBuf>,
}

fn main() -> Result<()> {
    let mut options = Options::default();
    let mut named = Vec::new();
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        let mut value = || arguments.next().with_context(|| format!("{argument}: needs a value"));
        match argument.as_str() {
            "--rounds" => options.rounds = Some(value()?.parse().context("--rounds")?),
            "--only" => options.only = value()?,
            "--systemd" => options.systemd = true,
            "--scale" => options.scale = Some(value()?.into()),
            "--guard" => options.guard = Some(value()?.into()),
            option if option.starts_with('-') => bail!("{option}: there is no such option"),
            _ => named.push(argument),
        }
    }
    let runtimes: Vec<Runtime> =
        named.iter().map(|pair| Runtime::new(pair, options.systemd)).collect::<Result<_>>()?;
    match (&options.scale, &options.guard) {
        (Some(directory), _) => scale::measure(&runtimes, directory),
        (_, Some(recorded)) => table::guard(runtimes, recorded, options.rounds.unwrap_or(20)),
        _ => {
            table::print(runtimes.clone(), options.rounds.unwrap_or(20), &options.only)?;
            if options.only.is_empty() { figures::print(&runtimes) } else { Ok(()) }
        }
    }
}
