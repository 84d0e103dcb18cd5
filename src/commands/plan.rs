//! `plan`: what `create` would do, step by step. Needs no rights and changes nothing.

use anyhow::Result;

use super::{Context, birth, print, print_json};
use crate::cli::{self, TextFormat};
use crate::container::check_id;
use crate::plan::bundle::Bundle;
use crate::plan::facts::Facts;
use crate::plan::request::{Console, Options};
use crate::plan::{print as printed, steps};

pub fn plan(context: &Context<'_>, options: &cli::Plan) -> Result<()> {
    check_id(&options.id)?;
    let facts = Facts::gather()?;
    let bundle = Bundle::read(&options.bundle, &options.config)?;
    let options_of_plan = Options {
        room: context.store.path(&options.id),
        cgroups: birth::cgroups(context.global),
        console: Console::Foreground(None),
        ..Options::default()
    };
    let plan = steps::birth(&bundle.request(&options.id, &facts, &options_of_plan))?;
    match options.format {
        TextFormat::Text => print(&printed::text(&plan)),
        TextFormat::Json => print_json(&printed::json(&plan)),
    }
}
