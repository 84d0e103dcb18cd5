//! Puts a runtime through many containers and many processes, and looks what is left. `hack/soak` prepares and cleans up.
//!
//!     soak [--short] RUNTIME WORK_DIRECTORY
//!
//! Like an engine it is the subreaper that waits for what `create` leaves. Everything it makes bears the name of its
//! work directory, so that others may use the machine meanwhile; only the kernel's own objects cannot be told apart, and
//! of those a leak must be as large as the number of tries to count.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use nix::sys::wait::waitpid;
use nix::unistd::Pid;
use serde_json::json;

#[path = "../integration/traces.rs"]
#[allow(dead_code)]
mod traces;
use traces::Traces;

/// How many commands run side by side where they are not to run one by one.
const ABREAST: usize = 8;

/// How much slower the last tenth may be than the first: a machine has other things to do as well.
const SLOWDOWN: f64 = 2.0;

struct Amounts {
    containers: usize,
    runs: usize,
    execs: usize,
    execs_at_once: usize,
}

const LONG: Amounts = Amounts { containers: 1000, runs: 10_000, execs: 10_000, execs_at_once: 1000 };
const SHORT: Amounts = Amounts { containers: 60, runs: 300, execs: 500, execs_at_once: 100 };

struct Soak {
    runtime: PathBuf,
    work: PathBuf,
    /// In the id of every container, the path of every file and the name of every group.
    mark: String,
}

impl Soak {
    fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(&self.runtime);
        command.arg("--root").arg(self.work.join("state")).args(words);
        command.stdin(Stdio::null()).stdout(Stdio::null());
        command
    }

    fn call(&self, words: &[&str]) -> Result<()> {
        let output = self.command(words).stderr(Stdio::piped()).output()?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "{words:?}: {}: {}", output.status, said.trim());
        Ok(())
    }

    fn id(&self, number: usize) -> String {
        format!("{}-{number}", self.mark)
    }

    fn pid_file(&self, id: &str) -> PathBuf {
        self.work.join(format!("{id}.pid"))
    }

    /// A bundle whose process is this; the root filesystem is one for all.
    fn configure(&self, args: &[&str]) -> Result<()> {
        let bundle = self.work.join("bundle");
        let file = bundle.join("config.json");
        if !file.exists() {
            self.call(&["spec", "--bundle", text(&bundle)?])?;
        }
        let mut config: serde_json::Value = serde_json::from_slice(&fs::read(&file)?)?;
        config["process"]["args"] = json!(args);
        config["process"]["terminal"] = json!(false);
        Ok(fs::write(&file, config.to_string())?)
    }

    fn create(&self, id: &str) -> Result<()> {
        let (bundle, pid_file) = (self.work.join("bundle"), self.pid_file(id));
        // A container keeps its creator's streams, and a pipe would not end before it does.
        let errors = self.work.join(format!("{id}.errors"));
        let mut command =
            self.command(&["create", "--bundle", text(&bundle)?, "--pid-file", text(&pid_file)?, id]);
        let status = command.stderr(fs::File::create(&errors)?).status()?;
        ensure!(status.success(), "create {id}: {status}: {}", fs::read_to_string(&errors)?.trim());
        Ok(fs::remove_file(errors)?)
    }

    fn remove(&self, id: &str) -> Result<()> {
        self.call(&["delete", "--force", id])?;
        let file = self.pid_file(id);
        let pid = fs::read_to_string(&file)?.parse()?;
        waitpid(Pid::from_raw(pid), None).with_context(|| format!("wait for {id}"))?;
        Ok(fs::remove_file(file)?)
    }

    fn left(&self) -> Traces {
        Traces::of(&self.mark, &[&self.work])
    }

    /// All containers at once: made, started, looked at, removed.
    fn crowd(&self, amount: usize) -> Result<()> {
        self.configure(&["/bin/sleep", "100000"])?;
        let numbers = abreast(amount, |number| {
            self.create(&self.id(number))?;
            self.call(&["start", &self.id(number)])
        })?;
        report(&format!("{amount} containers, {ABREAST} at a time: create and start"), &numbers);
        let listed = self.command(&["list", "--quiet"]).stdout(Stdio::piped()).output()?;
        let listed = String::from_utf8(listed.stdout)?.lines().count();
        ensure!(listed == amount, "{listed} containers are listed, and {amount} were made");
        let numbers = abreast(amount, |number| self.remove(&self.id(number)))?;
        report("    delete", &numbers);
        Ok(())
    }

    /// One container after the other.
    fn cycles(&self, amount: usize) -> Result<()> {
        self.configure(&["/bin/true"])?;
        let bundle = self.work.join("bundle");
        let bundle = text(&bundle)?;
        let mut times = Vec::with_capacity(amount);
        for number in 0..amount {
            times.push(timed(|| self.call(&["run", "--bundle", bundle, &self.id(number)]))?);
        }
        steady(&format!("{amount} runs, one by one"), &times)
    }

    /// Processes in one container: one by one, side by side, and all at once.
    fn guests(&self, amounts: &Amounts) -> Result<()> {
        self.configure(&["/bin/sleep", "100000"])?;
        let id = self.id(0);
        self.create(&id)?;
        self.call(&["start", &id])?;
        let exec = ["exec", &id, "/bin/true"];
        let mut times = Vec::new();
        for _ in 0..amounts.execs / 2 {
            times.push(timed(|| self.call(&exec))?);
        }
        steady(&format!("{} execs, one by one", times.len()), &times)?;
        let times = abreast(amounts.execs / 2, |_| self.call(&exec))?;
        steady(&format!("{} execs, {ABREAST} at a time", times.len()), &times)?;

        let begin = Instant::now();
        let spawn = |_| Ok(self.command(&exec).stderr(Stdio::null()).spawn()?);
        let children: Vec<Child> = (0..amounts.execs_at_once).map(spawn).collect::<Result<_>>()?;
        for mut child in children {
            let status = child.wait()?;
            ensure!(status.success(), "one of {} execs at once: {status}", amounts.execs_at_once);
        }
        let took = begin.elapsed();
        let each = took / u32::try_from(amounts.execs_at_once)?;
        println!("{} execs at once: {took:.1?}, one every {each:.2?}", amounts.execs_at_once);
        self.remove(&id)
    }
}

fn text(path: &Path) -> Result<&str> {
    path.to_str().context("a path that is not UTF-8")
}

fn timed(work: impl FnOnce() -> Result<()>) -> Result<Duration> {
    let begin = Instant::now();
    work()?;
    Ok(begin.elapsed())
}

/// Do it for each number, some at a time; how long each took, in the order in which they ended.
fn abreast(amount: usize, work: impl Fn(usize) -> Result<()> + Sync) -> Result<Vec<Duration>> {
    let (next, times) = (AtomicUsize::new(0), Mutex::new(Vec::with_capacity(amount)));
    let worker = || -> Result<()> {
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            if number >= amount {
                return Ok(());
            }
            let took = timed(|| work(number)).inspect_err(|_| next.store(amount, Ordering::Relaxed))?;
            times.lock().expect("no worker panics").push(took);
        }
    };
    thread::scope(|scope| {
        let workers: Vec<_> = (0..ABREAST).map(|_| scope.spawn(worker)).collect();
        workers.into_iter().try_for_each(|worker| worker.join().expect("no worker panics"))
    })?;
    Ok(times.into_inner().expect("no worker panics"))
}

/// The lower quartiles of the first tenth and of the last: what the neighbours do is mostly above them.
fn quartiles(times: &[Duration]) -> (Duration, Duration) {
    let quartile = |part: &[Duration]| {
        let mut part = part.to_vec();
        part.sort();
        part[part.len() / 4]
    };
    let tenth = times.len().div_ceil(10);
    (quartile(&times[..tenth]), quartile(&times[times.len() - tenth..]))
}

fn report(what: &str, times: &[Duration]) {
    let (first, last) = quartiles(times);
    println!("{what}: {first:.1?} for the first tenth, {last:.1?} for the last");
}

fn steady(what: &str, times: &[Duration]) -> Result<()> {
    report(what, times);
    let (first, last) = quartiles(times);
    let factor = last.as_secs_f64() / first.as_secs_f64();
    ensure!(factor <= SLOWDOWN, "{what}: the last tenth took {factor:.2} times as long as the first");
    Ok(())
}

/// The kernel's own objects, which live on in whatever holds them: a mount, a descriptor, a message under way.
fn kernel_objects() -> Result<BTreeMap<String, usize>> {
    const WATCHED: &[&str] =
        &["net_namespace", "nsproxy", "pid_namespace", "user_namespace", "uts_namespace"];
    let table = fs::read_to_string("/proc/slabinfo").context("read /proc/slabinfo")?;
    let fields = table.lines().map(|line| line.split_whitespace());
    Ok(fields
        .filter_map(|mut fields| Some((fields.next()?.to_string(), fields.next()?.parse().ok()?)))
        .filter(|(name, _)| WATCHED.contains(&name.as_str()))
        .collect())
}

fn descriptors() -> Result<usize> {
    Ok(fs::read_dir("/proc/self/fd")?.count())
}

fn main() -> Result<()> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let (amounts, places) = match &words[..] {
        [short, places @ ..] if short == "--short" => (SHORT, places),
        places => (LONG, places),
    };
    let [runtime, work] = places else { bail!("soak [--short] RUNTIME WORK_DIRECTORY") };
    let work = PathBuf::from(work);
    let mark = work.file_name().and_then(|name| name.to_str()).context("a work directory with a name")?;
    let soak = Soak { runtime: runtime.into(), mark: mark.to_owned(), work: work.clone() };
    nix::sys::prctl::set_child_subreaper(true).context("become a subreaper")?;

    // What the first container brings along for all: the configuration, the state root.
    soak.configure(&["/bin/true"])?;
    soak.call(&["run", "--bundle", text(&work.join("bundle"))?, &soak.id(0)])?;
    let tries = amounts.containers + amounts.runs + amounts.execs;
    let (before, objects, open) = (soak.left(), kernel_objects()?, descriptors()?);
    soak.crowd(amounts.containers)?;
    soak.cycles(amounts.runs)?;
    soak.guests(&amounts)?;

    before.assert_same(&soak.left(), "the soak");
    ensure!(descriptors()? == open, "{} descriptors are open, and {open} were before", descriptors()?);
    for (name, count) in kernel_objects()? {
        let more = count.saturating_sub(objects.get(&name).copied().unwrap_or(0));
        ensure!(more < tries / 4, "{more} more of the kernel's {name} after {tries} tries");
    }
    println!("nothing is left: no process, mount, control group, file or descriptor");
    Ok(())
}
