//! Times one container's life under several runtimes, and prints one table. `hack/bench` prepares and cleans up.
//!
//!     bench [--rounds N] [--back-to-back] LIMIT_DIRECTORY WORK_DIRECTORY NAME=RUNTIME...
//!
//! A sample is one command, from posix_spawn(3) to its end, after a pause. The pause matters: for some tens of
//! milliseconds after a task changed its cgroup, the next move is cheap, and a benchmark that runs back to back
//! hides the RCU grace period that a runtime on a quiet host waits for. Runtimes take turns within each round,
//! so that a busy moment of the machine falls on all of them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

const QUIET: Duration = Duration::from_millis(80);
const ID: &str = "ID";
/// The container that lasts as long as the benchmark, for `exec`.
const LASTING: &str = "lasting";
const BRIEF: &str = "brief";
/// How the floor is called in the table: the programs of `hack/limit`.
const LIMIT: &str = "limit";

/// What is timed, against whom the first runtime is held, and what it must reach there.
const OPERATIONS: [(&str, &str, Option<f64>); 7] = [
    ("run", LIMIT, Some(1.7)),
    ("exec", "crun", Some(0.25)),
    ("state", "crun", Some(0.5)),
    ("create", "crun", None),
    ("start", "crun", None),
    ("kill", "crun", None),
    ("delete", "crun", None),
];

struct Runtime {
    name: String,
    path: PathBuf,
    root: PathBuf,
}

impl Runtime {
    /// `--root ROOT WORDS...`, where the word `ID` stands for a container of this runtime alone: the default
    /// control group is named by the id.
    fn command(&self, words: &[&str], role: &str) -> Command {
        let id = format!("{}-{role}", self.name);
        let mut command = Command::new(&self.path);
        command.arg("--root").arg(&self.root);
        command.args(words.iter().map(|&word| if word == ID { &id } else { word }));
        command
    }

    fn state(&self, role: &str) -> Result<serde_json::Value> {
        let output = self.command(&["state", ID], role).output()?;
        ensure!(output.status.success(), "{} state of {role}: {}", self.name, output.status);
        Ok(serde_json::from_slice(&output.stdout)?)
    }

    fn wait_until_stopped(&self, role: &str) -> Result<()> {
        while self.state(role)?["status"] != "stopped" {
            sleep(Duration::from_millis(5));
        }
        Ok(())
    }

    /// The name and its version, from the first line of `--version`.
    fn title(&self) -> Result<String> {
        let output = Command::new(&self.path).arg("--version").output()?;
        let text = String::from_utf8(output.stdout)?;
        let version = text.lines().next().and_then(|line| line.split(' ').nth(2)).unwrap_or_default();
        Ok(format!("{} {}", self.name, version.split('+').next().unwrap_or_default()))
    }
}

struct Bench {
    quiet: Duration,
    limit: PathBuf,
    bundles: PathBuf,
    runtimes: Vec<Runtime>,
    /// Milliseconds, by operation and by name of the program.
    samples: BTreeMap<(&'static str, String), Vec<f64>>,
}

impl Bench {
    fn sample(&mut self, operation: &'static str, name: &str, mut command: Command) -> Result<()> {
        sleep(self.quiet);
        let begin = Instant::now();
        run(&mut command)?;
        let took = begin.elapsed().as_secs_f64() * 1e3;
        self.samples.entry((operation, name.to_owned())).or_default().push(took);
        Ok(())
    }

    /// One sample of every runtime; `first` takes its turn first.
    fn turn(&mut self, first: usize, operation: &'static str, words: &[&str], role: &str) -> Result<()> {
        for n in 0..self.runtimes.len() {
            let runtime = &self.runtimes[(first + n) % self.runtimes.len()];
            let (name, command) = (runtime.name.clone(), runtime.command(words, role));
            self.sample(operation, &name, command)?;
        }
        Ok(())
    }

    /// The same of every runtime, untimed.
    fn all(&self, words: &[&str], role: &str) -> Result<()> {
        self.runtimes.iter().try_for_each(|runtime| run(&mut runtime.command(words, role)))
    }

    fn all_stopped(&self, role: &str) -> Result<()> {
        self.runtimes.iter().try_for_each(|runtime| runtime.wait_until_stopped(role))
    }

    fn limit_run(&self) -> Command {
        let mut command = Command::new(self.limit.join("run"));
        command.current_dir(self.bundles.join(BRIEF));
        command
    }

    /// Joins the lasting container of the first runtime: the namespaces are the same under all.
    fn limit_exec(&self) -> Result<Command> {
        let pid = self.runtimes[0].state(LASTING)?["pid"].to_string();
        let groups = std::fs::read_to_string(format!("/proc/{pid}/cgroup"))?;
        let group = groups
            .lines()
            .find_map(|line| line.split_once(":pids:").or(line.split_once("0::")))
            .with_context(|| format!("no control group for process {pid}"))?;
        let mut command = Command::new(self.limit.join("exec"));
        command.args([&pid, group.1.trim_start_matches('/')]);
        Ok(command)
    }

    fn round(&mut self, first: usize) -> Result<()> {
        let bundle = self.bundles.join(BRIEF);
        let bundle = bundle.to_str().context("the bundle's path is not UTF-8")?;

        self.sample("run", LIMIT, self.limit_run())?;
        self.turn(first, "run", &["run", "--bundle", bundle, ID], "run")?;

        self.sample("exec", LIMIT, self.limit_exec()?)?;
        self.turn(first, "exec", &["exec", ID, "/bin/true"], LASTING)?;

        self.turn(first, "create", &["create", "--bundle", bundle, ID], "life")?;
        self.turn(first, "state", &["state", ID], "life")?;
        self.turn(first, "start", &["start", ID], "life")?;
        self.all_stopped("life")?;
        self.turn(first, "delete", &["delete", ID], "life")?;

        self.all(&["create", "--bundle", bundle, ID], "victim")?;
        self.turn(first, "kill", &["kill", ID, "KILL"], "victim")?;
        self.all_stopped("victim")?;
        self.all(&["delete", ID], "victim")
    }

    /// Median and minimum.
    fn figures(&self, operation: &'static str, name: &str) -> Option<(f64, f64)> {
        let mut samples = self.samples.get(&(operation, name.to_owned()))?.clone();
        samples.sort_by(f64::total_cmp);
        Some((samples[samples.len() / 2], samples[0]))
    }

    fn print(&self) -> Result<()> {
        let first = &self.runtimes[0].name;
        let others = self.runtimes.iter().map(|runtime| Ok((runtime.name.clone(), runtime.title()?)));
        let columns = [Ok((LIMIT.to_owned(), LIMIT.to_owned()))].into_iter().chain(others);
        let columns = columns.collect::<Result<Vec<_>>>()?;

        print!("{:8}", "");
        columns.iter().for_each(|(_, title)| print!("{title:>16}"));
        println!("   {first} is");
        for (operation, rival, bound) in OPERATIONS {
            print!("{operation:8}");
            for (name, _) in &columns {
                let cell =
                    self.figures(operation, name).map(|(median, least)| format!("{median:.2} ({least:.2})"));
                print!("{:>16}", cell.unwrap_or("-".to_owned()));
            }
            let ratio = self.figures(operation, first).zip(self.figures(operation, rival));
            let ratio = ratio.map(|(ours, theirs)| ours.0 / theirs.0).context("no sample to compare with")?;
            print!("   {ratio:.2} x {rival}");
            match bound {
                Some(bound) if ratio <= bound => println!(", target {bound}: reached"),
                Some(bound) => println!(", target {bound}: missed"),
                None => println!(),
            }
        }
        Ok(())
    }
}

fn run(command: &mut Command) -> Result<()> {
    let status = command.stdin(Stdio::null()).stdout(Stdio::null()).status()?;
    ensure!(status.success(), "{command:?}: {status}");
    Ok(())
}

fn main() -> Result<()> {
    let (mut rounds, mut quiet) = (20, QUIET);
    let mut places = Vec::new();
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--rounds" => {
                rounds = arguments.next().context("--rounds: how many?")?.parse().context("--rounds")?
            }
            "--back-to-back" => quiet = Duration::ZERO,
            option if option.starts_with('-') => bail!("{option}: known are --rounds N and --back-to-back"),
            _ => places.push(argument),
        }
    }
    let [limit, work, runtimes @ ..] = &places[..] else { bail!("no directories") };
    let work = Path::new(work);
    let runtimes = runtimes.iter().map(|pair| {
        let (name, path) = pair.split_once('=').with_context(|| format!("{pair}: not NAME=RUNTIME"))?;
        Ok(Runtime { name: name.to_owned(), path: path.into(), root: work.join(name) })
    });
    let mut bench = Bench {
        quiet,
        limit: std::path::absolute(limit)?,
        bundles: work.to_owned(),
        runtimes: runtimes.collect::<Result<_>>()?,
        samples: BTreeMap::new(),
    };

    let bundle = work.join(LASTING);
    let bundle = bundle.to_str().context("the bundle's path is not UTF-8")?;
    bench.all(&["run", "--detach", "--bundle", bundle, ID], LASTING)?;
    for round in 0..rounds {
        bench.round(round % bench.runtimes.len())?;
    }
    println!(
        "\nmilliseconds: median (minimum) of {rounds} rounds, {} ms of quiet before each sample\n",
        quiet.as_millis()
    );
    bench.print()
}
