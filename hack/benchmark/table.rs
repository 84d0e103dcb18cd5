//! The table of times.
//!
//! A sample is the commands of one work, each from posix_spawn(3) to its end, after a pause. The pause matters: for some
//! tens of milliseconds after a task changed its cgroup, the next move is cheap, and a benchmark that runs back to back
//! hides the RCU grace period that a runtime on a quiet host waits for. Runtimes take turns within each round, so that a
//! busy moment of the machine falls on all of them.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use super::runtime::{LIMIT, Runtime, limit_exec, limit_run, run, unified};

/// What comes before a sample.
#[derive(Clone, Copy, PartialEq)]
enum Pause {
    Quiet,
    BackToBack,
    /// The page cache is dropped, then it is quiet.
    Cold,
}
use Pause::{BackToBack, Cold, Quiet};

const QUIET: Duration = Duration::from_millis(80);

/// Something that a runtime is asked to do.
struct Work {
    name: &'static str,
    pause: Pause,
    before: &'static [&'static str],
    /// `wait`, untimed, is until the container has stopped.
    timed: &'static [&'static str],
    after: &'static [&'static str],
    /// At most so many times what another takes: on a host with v1, and on one with v2 alone.
    targets: &'static [(&'static str, Option<f64>, Option<f64>)],
}

const CREATE: &[&str] = &["create --bundle brief ID"];
const DELETE: &[&str] = &["wait", "delete ID"];
const LIFE: &[&str] = &["create --bundle brief ID", "start ID", "wait", "delete ID"];
const RUN: &[&str] = &["run --bundle brief ID"];
const EXEC: &[&str] = &["exec ID-lasting /bin/true"];
const FORCE: &[&str] = &["delete --force ID"];

const WORKS: &[Work] = &[
    Work {
        name: "run",
        pause: Quiet,
        before: &[],
        timed: RUN,
        after: &[],
        targets: &[(LIMIT, Some(1.35), None), ("crun", None, None)],
    },
    Work {
        name: "run, back to back",
        pause: BackToBack,
        before: &[],
        timed: RUN,
        after: &[],
        targets: &[("crun", Some(0.55), None)],
    },
    Work {
        name: "run, cold",
        pause: Cold,
        before: &[],
        timed: RUN,
        after: &[],
        targets: &[("crun", Some(0.6), None)],
    },
    Work {
        name: "run, as Docker",
        pause: Quiet,
        before: &[],
        timed: &["run --bundle docker ID"],
        after: &[],
        targets: &[("crun", Some(0.4), None)],
    },
    Work {
        name: "life",
        pause: Quiet,
        before: &[],
        timed: LIFE,
        after: &[],
        targets: &[("crun", Some(0.25), Some(0.45))],
    },
    Work {
        name: "life, back to back",
        pause: BackToBack,
        before: &[],
        timed: LIFE,
        after: &[],
        targets: &[("crun", Some(0.5), None)],
    },
    Work {
        name: "create",
        pause: Quiet,
        before: &[],
        timed: CREATE,
        after: FORCE,
        targets: &[("crun", None, None)],
    },
    Work {
        name: "create, all limits",
        pause: Quiet,
        before: &[],
        timed: &["create --bundle limits ID"],
        after: FORCE,
        targets: &[("crun", Some(0.35), Some(0.5))],
    },
    Work {
        name: "start",
        pause: Quiet,
        before: CREATE,
        timed: &["start ID"],
        after: DELETE,
        targets: &[("crun", None, None)],
    },
    Work {
        name: "state",
        pause: Quiet,
        before: CREATE,
        timed: &["state ID"],
        after: FORCE,
        targets: &[("crun", Some(0.5), Some(0.5))],
    },
    Work {
        name: "kill",
        pause: Quiet,
        before: CREATE,
        timed: &["kill ID KILL"],
        after: DELETE,
        targets: &[("crun", Some(0.5), Some(0.5))],
    },
    Work {
        name: "delete",
        pause: Quiet,
        before: &["create --bundle brief ID", "kill ID KILL", "wait"],
        timed: &["delete ID"],
        after: &[],
        targets: &[("crun", Some(0.5), Some(0.5))],
    },
    Work {
        name: "exec",
        pause: Quiet,
        before: &[],
        timed: EXEC,
        after: &[],
        targets: &[(LIMIT, Some(1.8), None), ("crun", Some(0.15), None)],
    },
    Work {
        name: "update",
        pause: Quiet,
        before: &[],
        timed: &["update --cpu-share 512 ID-lasting"],
        after: &[],
        targets: &[("crun", Some(0.5), Some(0.5))],
    },
    Work {
        name: "events",
        pause: Quiet,
        before: &[],
        timed: &["events --stats ID-lasting"],
        after: &[],
        targets: &[("runc", Some(0.5), Some(0.5))],
    },
];

impl Work {
    fn is_possible(&self, name: &str) -> bool {
        // crun has no such command.
        !(self.name == "events" && name == "crun")
    }

    /// The program of `hack/limit` that does the same, for those works where the floor is known.
    fn limit(&self, runtime: &Runtime) -> Result<Option<Command>> {
        Ok(match self.timed {
            RUN => Some(limit_run()),
            EXEC => Some(limit_exec(runtime, &format!("{}-lasting", runtime.name))?),
            _ => None,
        })
    }
}

/// Milliseconds, by work and by name of the program.
#[derive(Default)]
struct Samples(BTreeMap<(&'static str, String), Vec<f64>>);

impl Samples {
    fn add(&mut self, work: &Work, name: &str, time: Duration) {
        self.0.entry((work.name, name.to_owned())).or_default().push(time.as_secs_f64() * 1e3);
    }

    /// Median and minimum.
    fn figures(&self, work: &Work, name: &str) -> Option<(f64, f64)> {
        let mut samples = self.0.get(&(work.name, name.to_owned()))?.clone();
        samples.sort_by(f64::total_cmp);
        Some((samples[samples.len() / 2], samples[0]))
    }

    fn ratio(&self, work: &Work, name: &str, rival: &str) -> Option<f64> {
        Some(self.figures(work, name)?.0 / self.figures(work, rival)?.0)
    }
}

fn rest(pause: Pause) -> Result<()> {
    if pause == Cold {
        nix::unistd::sync();
        std::fs::write("/proc/sys/vm/drop_caches", "3").context("drop the caches")?;
    }
    if pause != BackToBack {
        sleep(QUIET);
    }
    Ok(())
}

fn sample(runtime: &Runtime, work: &Work) -> Result<Duration> {
    let perform = |line: &str| match line {
        "wait" => runtime.wait_until_stopped(&runtime.name),
        line => runtime.run(line),
    };
    work.before.iter().try_for_each(|line| perform(line))?;
    rest(work.pause)?;
    let mut took = Duration::ZERO;
    for line in work.timed {
        let begin = Instant::now();
        perform(line)?;
        if *line != "wait" {
            took += begin.elapsed();
        }
    }
    work.after.iter().try_for_each(|line| perform(line))?;
    Ok(took)
}

fn measure(runtimes: &[Runtime], works: &[&'static Work], rounds: usize) -> Result<Samples> {
    let mut samples = Samples::default();
    for runtime in runtimes {
        runtime.run("run --detach --bundle lasting ID-lasting")?;
    }
    for round in 0..rounds {
        for work in works {
            if let Some(mut command) = work.limit(&runtimes[0])? {
                rest(work.pause)?;
                let begin = Instant::now();
                run(&mut command)?;
                samples.add(work, LIMIT, begin.elapsed());
            }
            for turn in 0..runtimes.len() {
                let runtime = &runtimes[(round + turn) % runtimes.len()];
                if work.is_possible(&runtime.name) {
                    samples.add(work, &runtime.name, sample(runtime, work)?);
                }
            }
        }
    }
    for runtime in runtimes {
        runtime.run("delete --force ID-lasting")?;
    }
    Ok(samples)
}

/// The table of all works whose name contains `only`, in Markdown.
pub fn print(runtimes: Vec<Runtime>, rounds: usize, only: &str) -> Result<()> {
    let works: Vec<&Work> = WORKS.iter().filter(|work| work.name.contains(only)).collect();
    ensure!(!works.is_empty(), "--only {only}: no such work");
    let samples = measure(&runtimes, &works, rounds)?;
    let first = &runtimes[0].name;
    let mut columns = vec![(LIMIT.to_owned(), LIMIT.to_owned())];
    for runtime in &runtimes {
        columns.push((runtime.name.clone(), runtime.title()?));
    }

    println!(
        "\nMilliseconds: median (minimum) of {rounds} rounds, {} ms of quiet before each sample.\n",
        QUIET.as_millis()
    );
    print!("| {:18} |", "");
    columns.iter().for_each(|(_, title)| print!(" {title:>15} |"));
    println!(" {first} is |");
    println!("|{:-<20}|{}---|", "", format!("{:->16}:|", "").repeat(columns.len()));
    for work in works {
        print!("| {:18} |", work.name);
        for (name, _) in &columns {
            let cell = samples.figures(work, name).map(|(median, least)| format!("{median:.2} ({least:.2})"));
            print!(" {:>15} |", cell.unwrap_or_default());
        }
        let verdicts = work.targets.iter().filter_map(|(rival, v1, v2)| {
            let ratio = samples.ratio(work, first, rival)?;
            let verdict = match if unified() { v2 } else { v1 } {
                Some(bound) if ratio <= *bound => format!(", target {bound}: reached"),
                Some(bound) => format!(", target {bound}: MISSED"),
                None => String::new(),
            };
            Some(format!("{ratio:.2} x {rival}{verdict}"))
        });
        println!(" {} |", verdicts.collect::<Vec<_>>().join("; "));
    }
    Ok(())
}

/// Fails when a ratio to the floor is more than a quarter worse than the recorded one; lines of `work ratio`.
pub fn guard(runtimes: Vec<Runtime>, recorded: &Path, rounds: usize) -> Result<()> {
    const TOLERANCE: f64 = 1.25;
    const TRIES: usize = 3;
    let text = std::fs::read_to_string(recorded).with_context(|| format!("read {recorded:?}"))?;
    let recorded = text.lines().filter(|line| !line.starts_with('#')).map(|line| {
        let (name, ratio) = line.split_once(' ').with_context(|| format!("{line:?}: not WORK RATIO"))?;
        let work = WORKS.iter().find(|work| work.name == name).with_context(|| format!("no work {name}"))?;
        Ok((work, ratio.parse::<f64>().with_context(|| line.to_owned())?))
    });
    let recorded: Vec<(&Work, f64)> = recorded.collect::<Result<_>>()?;
    let works: Vec<&Work> = recorded.iter().map(|(work, _)| *work).collect();
    let mut worse = Vec::new();
    // A busy moment of the machine passes; a slower program is slow each time.
    for _ in 0..TRIES {
        let samples = measure(&runtimes[..1], &works, rounds)?;
        worse.clear();
        for (work, before) in &recorded {
            let now = samples.ratio(work, &runtimes[0].name, LIMIT).context("no sample of the floor")?;
            println!("{}: {now:.2} x {LIMIT}, recorded {before:.2}", work.name);
            if now > before * TOLERANCE {
                worse.push(work.name);
            }
        }
        if worse.is_empty() {
            return Ok(());
        }
    }
    bail!("more than a quarter slower than recorded, each time: {}", worse.join(", "))
}
