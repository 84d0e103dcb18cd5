//! `ps`: the processes of a container, as their ids or as the host's ps(1) shows them.

use std::collections::HashSet;
use std::process::Command;

use anyhow::{Context as _, Result, bail, ensure};

use super::{Context, print, print_json};
use crate::cli::{self, TableFormat};

pub fn ps(context: &Context<'_>, options: &cli::Ps) -> Result<()> {
    let state = context.store.look(&options.id)?;
    let pids: HashSet<i32> = match state.cgroup(&context.store.path(&options.id))? {
        Some(cgroup) => cgroup.pids()?.into_iter().map(|pid| pid.as_raw()).collect(),
        // Its number may be another's by now.
        None => match &state.init {
            Some(init) if init.is_alive()? => HashSet::from([init.pid]),
            _ => HashSet::new(),
        },
    };
    if options.format == TableFormat::Json {
        let mut pids: Vec<i32> = pids.into_iter().collect();
        pids.sort_unstable();
        return print_json(&pids);
    }
    // Engines pass all arguments in one word.
    let words = options.args.iter().flat_map(|word| word.split_whitespace());
    let output = Command::new("ps").args(words).output().context("run ps")?;
    if !output.status.success() {
        bail!("ps: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    print(&of_container(&String::from_utf8_lossy(&output.stdout), &pids)?)
}

/// The lines of ps's table whose PID column names one of `pids`, below its title.
fn of_container(table: &str, pids: &HashSet<i32>) -> Result<String> {
    let mut lines = table.lines();
    let title = lines.next().unwrap_or_default();
    let column = title.split_whitespace().position(|name| name == "PID");
    ensure!(column.is_some(), "ps printed no column PID: its arguments must select it");
    let is_ours = |line: &&str| {
        let pid = column.and_then(|column| line.split_whitespace().nth(column)?.parse().ok());
        pid.is_some_and(|pid: i32| pids.contains(&pid))
    };
    Ok([title].into_iter().chain(lines.filter(is_ours)).map(|line| format!("{line}\n")).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_containers_lines_are_kept() {
        let table = "UID   PID CMD\nroot    1 init\nroot   12 httpd 1\n";
        assert_eq!(of_container(table, &HashSet::from([12])).unwrap(), "UID   PID CMD\nroot   12 httpd 1\n");
        of_container("CMD\ninit\n", &HashSet::new()).unwrap_err();
    }
}
