//! `list`: all containers below the state root.

use std::fmt::Write;

use anyhow::Result;

use super::{Context, print, print_json};
use crate::cli::{self, TableFormat};
use crate::container::state::State;

pub fn list(context: &Context<'_>, options: &cli::List) -> Result<()> {
    let mut states = Vec::new();
    for id in context.store.ids()? {
        let room = context.store.path(&id);
        let found = State::read(&room).and_then(|state| {
            // One that is being made or removed at this moment is not there yet, or not any more.
            let Some(state) = state else { return Ok(None) };
            let Some(annotations) = state.annotations(&room)? else { return Ok(None) };
            let status = state.status(&room)?;
            Ok(Some((state, status, annotations)))
        });
        match found {
            Ok(found) => states.extend(found),
            // One broken container must not hide the others.
            Err(error) => context.log.remark(&format!("list {id}: {error:#}")),
        }
    }
    let documents: Vec<_> =
        states.iter().map(|(state, status, annotations)| state.document(*status, annotations)).collect();
    if options.quiet {
        return print(&documents.iter().map(|one| format!("{}\n", one.id)).collect::<String>());
    }
    if options.format == TableFormat::Json {
        return print_json(&documents);
    }
    let mut rows = vec![["ID", "PID", "STATUS", "BUNDLE", "CREATED", "OWNER"].map(String::from)];
    for one in &documents {
        rows.push([
            one.id.to_string(),
            one.pid.to_string(),
            one.status.name().to_string(),
            one.bundle.display().to_string(),
            one.created.to_string(),
            one.owner.clone(),
        ]);
    }
    print(&table(&rows))
}

/// Columns as wide as their widest cell, at least as runc's: 12, and three spaces between.
fn table<const COLUMNS: usize>(rows: &[[String; COLUMNS]]) -> String {
    let mut widths = [12; COLUMNS];
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = cell.chars().count().max(*width - 3) + 3;
        }
    }
    let mut text = String::new();
    for row in rows {
        let mut line = String::new();
        for (width, cell) in widths.iter().zip(row) {
            // Writing to a string cannot fail.
            let _ = write!(line, "{cell:<width$}");
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}
