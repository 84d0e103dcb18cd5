//! Writes man pages and shell completions into a directory, from the same definitions that parse the command line.
//! Run by packagers: `cargo run --example man -- DIR`.

#[allow(dead_code, unused_imports, reason = "the parser itself is not used here")]
#[path = "../src/cli/mod.rs"]
mod cli;
#[allow(dead_code, reason = "the parser itself is not used here")]
#[path = "../src/signal.rs"]
mod signal;

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::CommandFactory;
use clap_complete::Shell;

fn main() -> Result<()> {
    let directory = std::env::args_os().nth(1).map(PathBuf::from).context("usage: man DIR")?;
    let create = |name: &str| {
        let path = directory.join(name);
        fs::create_dir_all(&path).with_context(|| format!("create {}", path.display())).map(|()| path)
    };

    let mut command = cli::Cli::command().disable_help_subcommand(true);
    command.build();
    let man8 = create("man8")?;
    for page in command.get_subcommands().chain([&command]) {
        let page = clap_mangen::Man::new(page.clone()).section("8");
        page.generate_to(&man8).with_context(|| format!("write to {}", man8.display()))?;
    }
    let completions = create("completions")?;
    for shell in [Shell::Bash, Shell::Fish, Shell::Zsh] {
        clap_complete::generate_to(shell, &mut command, "corten", &completions)
            .with_context(|| format!("write to {}", completions.display()))?;
    }
    Ok(())
}
