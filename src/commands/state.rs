//! `state`: what a container is, in JSON.

use anyhow::{Context as _, Result};

use super::{Context, print_json};
use crate::cli;
use crate::container::check_id;
use crate::container::store::does_not_exist;

pub fn state(context: &Context<'_>, options: &cli::State) -> Result<()> {
    check_id(&options.id)?;
    let state = context.store.look(&options.id)?;
    let room = context.store.path(&options.id);
    let annotations = state.annotations(&room)?.with_context(|| does_not_exist(&options.id))?;
    print_json(&state.document(state.status(&room)?, &annotations))
}
