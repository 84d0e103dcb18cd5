//! What a runtime uses beside time: the size of its program, memory, and a container's memory limit that it needs.

use std::fs;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::runtime::Runtime;

type Figure = fn(&Runtime) -> Result<u64>;

pub fn print(runtimes: &[Runtime]) -> Result<()> {
    println!(
        "\n| {:36} |{}",
        "",
        runtimes.iter().map(|runtime| format!(" {:>8} |", runtime.name)).collect::<String>()
    );
    println!("|{:-<38}|{}", "", "---------:|".repeat(runtimes.len()));
    let rows = [
        ("program, KiB", size as Figure),
        ("peak resident set of run, KiB", peak),
        ("least memory limit of true, KiB", least_limit),
    ];
    for (name, figure) in rows {
        let cells = runtimes.iter().map(|runtime| Ok(format!(" {:>8} |", figure(runtime)?)));
        println!("| {name:36} |{}", cells.collect::<Result<String>>()?);
    }
    Ok(())
}

fn size(runtime: &Runtime) -> Result<u64> {
    Ok(fs::metadata(runtime.path())?.len().div_ceil(1024))
}

fn peak(runtime: &Runtime) -> Result<u64> {
    let inner = runtime.command("run --bundle brief ID");
    let mut command = Command::new("./usage");
    command.arg("peak").arg(inner.get_program()).args(inner.get_args());
    let output = command.stdin(Stdio::null()).output()?;
    ensure!(output.status.success(), "{command:?}: {}", output.status);
    let text = String::from_utf8(output.stderr)?;
    text.lines().last().and_then(|line| line.parse().ok()).with_context(|| format!("no number: {text}"))
}

/// By halving, to the page.
fn least_limit(runtime: &Runtime) -> Result<u64> {
    let mut config: Value = serde_json::from_slice(&fs::read("brief/config.json")?)?;
    config["root"]["path"] = json!(fs::canonicalize("brief/rootfs")?);
    fs::create_dir_all("small")?;
    let mut starts = |pages: u64| -> Result<bool> {
        config["linux"]["resources"]["memory"] = json!({"limit": pages * 4096});
        fs::write("small/config.json", config.to_string())?;
        let mut command = Command::new("timeout");
        let inner = runtime.command("run --bundle small ID");
        command.args(["--signal", "KILL", "10"]).arg(inner.get_program()).args(inner.get_args());
        let status = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status()?;
        // A runtime that was killed, or lost its child, may have left something behind.
        let _ = runtime.command("delete --force ID").stdout(Stdio::null()).stderr(Stdio::null()).status()?;
        Ok(status.success())
    };
    let (mut fails, mut works) = (1, 4096);
    while works - fails > 1 {
        let middle = (fails + works) / 2;
        if starts(middle)? { works = middle } else { fails = middle }
    }
    Ok(works * 4)
}
