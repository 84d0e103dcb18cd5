//! `create`: a container up to its start gate.

use anyhow::Result;

use super::{Context, birth};
use crate::cli;
use crate::plan::request::Console;

pub fn create(context: &Context<'_>, options: &cli::Create) -> Result<()> {
    let console = options.birth.console_socket.clone().map_or(Console::None, Console::Socket);
    birth::give_birth(context, &options.birth, &options.id, console, None).map(drop)
}
