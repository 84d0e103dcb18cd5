//! A runtime under test: its commands, in a state root of its own.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

/// The floor: the programs of `hack/limit`.
pub const LIMIT: &str = "limit";

#[derive(Clone)]
pub struct Runtime {
    pub name: String,
    path: PathBuf,
    root: PathBuf,
    systemd: bool,
}

impl Runtime {
    /// From `NAME=PATH`.
    pub fn new(pair: &str, systemd: bool) -> Result<Runtime> {
        let (name, path) = pair.split_once('=').with_context(|| format!("{pair}: not NAME=RUNTIME"))?;
        let root = std::path::absolute(format!("state/{name}"))?;
        Ok(Runtime { name: name.to_owned(), path: path.into(), root, systemd })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Words as they are typed behind the runtime's name: `ID` stands for a container of this runtime alone, since the
    /// default control group is named by the id.
    pub fn command(&self, line: &str) -> Command {
        let mut command = Command::new(&self.path);
        command.arg("--root").arg(&self.root);
        if self.systemd {
            command.arg("--systemd-cgroup");
        }
        command.args(line.split(' ').map(|word| word.replace("ID", &self.name)));
        command
    }

    pub fn run(&self, line: &str) -> Result<()> {
        run(&mut self.command(line))
    }

    pub fn state(&self, id: &str) -> Result<serde_json::Value> {
        let output = self.command(&format!("state {id}")).output()?;
        ensure!(output.status.success(), "{} state {id}: {}", self.name, output.status);
        Ok(serde_json::from_slice(&output.stdout)?)
    }

    pub fn wait_until_stopped(&self, id: &str) -> Result<()> {
        while self.state(id)?["status"] != "stopped" {
            sleep(Duration::from_millis(5));
        }
        Ok(())
    }

    /// The name and its version, from the first line of `--version`.
    pub fn title(&self) -> Result<String> {
        let output = Command::new(&self.path).arg("--version").output()?;
        let text = String::from_utf8(output.stdout)?;
        let version = text.lines().next().and_then(|line| line.split(' ').nth(2)).unwrap_or_default();
        Ok(format!("{} {}", self.name, version.split('+').next().unwrap_or_default()))
    }
}

/// The same kernel objects as the default bundle's, and nothing else.
pub fn limit_run() -> Command {
    let mut command = Command::new(std::path::absolute("limit/run").expect("a current directory"));
    command.current_dir("brief");
    command
}

/// Joins a container: the namespaces are the same under all runtimes.
pub fn limit_exec(runtime: &Runtime, id: &str) -> Result<Command> {
    let pid = runtime.state(id)?["pid"].to_string();
    let groups = std::fs::read_to_string(format!("/proc/{pid}/cgroup"))?;
    let group = groups
        .lines()
        .find_map(|line| line.split_once(":pids:").or(line.split_once("0::")))
        .with_context(|| format!("no control group for process {pid}"))?;
    let mut command = Command::new("limit/exec");
    command.args([&pid, group.1.trim_start_matches('/')]);
    Ok(command)
}

pub fn run(command: &mut Command) -> Result<()> {
    let status = command.stdin(Stdio::null()).stdout(Stdio::null()).status()?;
    ensure!(status.success(), "{command:?}: {status}");
    Ok(())
}

/// Whether this host has cgroup v2 alone.
pub fn unified() -> bool {
    Path::new("/sys/fs/cgroup/cgroup.controllers").exists()
}
