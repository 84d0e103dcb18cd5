//! `state`: what a container is, in JSON.

use anyhow::Result;

use super::{Context, print_json};
use crate::cli;
use crate::container::check_id;

pub fn state(context: &Context<'_>, options: &cli::State) -> Result<()> {
    check_id(&options.id)?;
    let state = context.store.look(&options.id)?;
    let status = state.status(&context.store.path(&options.id))?;
    print_json(&state.document(status))
}
