//! Cost against size: what grows with what, and whose part of it grows.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use serde_json::{Value, json};

use super::plot::{Line, svg};
use super::runtime::{LIMIT, Runtime, limit_run, run};

const ROUNDS: usize = 7;
const NOTHING: Option<&str> = None;

/// One chart: a file's name, its title, what the sizes count.
struct Chart {
    file: &'static str,
    title: &'static str,
    axis: &'static str,
    lines: Vec<Line>,
}

impl Chart {
    fn new(file: &'static str, title: &'static str, axis: &'static str) -> Chart {
        Chart { file, title, axis, lines: Vec::new() }
    }

    fn add(&mut self, name: &str, size: usize, time: f64) {
        let number = match self.lines.iter().position(|line| line.name == name) {
            Some(number) => number,
            None => {
                self.lines.push(Line { name: name.to_owned(), points: Vec::new() });
                self.lines.len() - 1
            }
        };
        self.lines[number].points.push((size as f64, time));
    }

    /// The plot as a file, the numbers as Markdown on standard output.
    fn finish(self, directory: &Path) -> Result<()> {
        fs::write(directory.join(self.file), svg(self.title, self.axis, &self.lines))?;
        let mut text = format!("\n### {}\n\n| {} |", self.title, self.axis);
        text += &self.lines.iter().map(|line| format!(" {} |", line.name)).collect::<String>();
        // Memory takes all text.
        let _ = write!(text, "\n|---:|{}", "---:|".repeat(self.lines.len()));
        let sizes = self.lines.first().map(|line| line.points.clone()).unwrap_or_default();
        for (row, (size, _)) in sizes.iter().enumerate() {
            let _ = write!(text, "\n| {size} |");
            for line in &self.lines {
                let _ = write!(text, " {:.2} |", line.points.get(row).map_or(f64::NAN, |point| point.1));
            }
        }
        println!("{text}");
        Ok(())
    }
}

pub fn measure(runtimes: &[Runtime], directory: &Path) -> Result<()> {
    fs::create_dir_all(directory)?;
    println!("Milliseconds, medians of {ROUNDS}.");
    containers(runtimes)?.finish(directory)?;
    host_mounts(runtimes)?.finish(directory)?;
    bundle_mounts(runtimes)?.finish(directory)?;
    config_size(runtimes)?.finish(directory)?;
    for (what, file, title) in
        [("create", "scale-creates.svg", "creates at once"), ("exec", "scale-execs.svg", "execs at once")]
    {
        concurrent(runtimes, what, file, title)?.finish(directory)?;
    }
    Ok(())
}

fn median(mut sample: impl FnMut() -> Result<()>) -> Result<f64> {
    let mut times = Vec::new();
    for _ in 0..ROUNDS {
        let begin = Instant::now();
        sample()?;
        times.push(begin.elapsed().as_secs_f64() * 1e3);
    }
    times.sort_by(f64::total_cmp);
    Ok(times[ROUNDS / 2])
}

/// `run` under every runtime, and the floor.
fn runs(chart: &mut Chart, runtimes: &[Runtime], size: usize, bundle: &str) -> Result<()> {
    for runtime in runtimes {
        chart.add(&runtime.name, size, median(|| runtime.run(&format!("run --bundle {bundle} ID")))?);
    }
    Ok(())
}

/// Containers of the first runtime that run meanwhile.
fn containers(runtimes: &[Runtime]) -> Result<Chart> {
    let mut chart = Chart::new("scale-containers.svg", "run, with other containers running", "containers");
    let first = &runtimes[0];
    let mut running = 0;
    for size in [1, 10, 100, 300, 1000] {
        while running < size {
            first.run(&format!("run --detach --bundle lasting ID-many-{running}"))?;
            running += 1;
        }
        runs(&mut chart, runtimes, size, "brief")?;
        chart.add(LIMIT, size, median(|| run(&mut limit_run()))?);
        chart.add("list", size, median(|| first.run("list"))?);
    }
    for number in 0..running {
        first.run(&format!("delete --force ID-many-{number}"))?;
    }
    Ok(chart)
}

/// Mounts of the host, in a mount namespace of this program's own.
fn host_mounts(runtimes: &[Runtime]) -> Result<Chart> {
    let mut chart = Chart::new("scale-host-mounts.svg", "run, with mounts on the host", "mounts");
    unshare(CloneFlags::CLONE_NEWNS).context("make a mount namespace")?;
    mount(NOTHING, "/", NOTHING, MsFlags::MS_REC | MsFlags::MS_PRIVATE, NOTHING)?;
    let places = std::path::absolute("many")?;
    let mut mounted = 0;
    for size in [1, 10, 100, 1000, 5000] {
        while mounted < size {
            let place = places.join(mounted.to_string());
            fs::create_dir_all(&place)?;
            mount(Some(&place), &place, NOTHING, MsFlags::MS_BIND, NOTHING)?;
            mounted += 1;
        }
        runs(&mut chart, runtimes, size, "brief")?;
        chart.add(LIMIT, size, median(|| run(&mut limit_run()))?);
    }
    for number in 0..mounted {
        umount2(&places.join(number.to_string()), MntFlags::MNT_DETACH)?;
    }
    fs::remove_dir_all(places)?;
    Ok(chart)
}

/// A bundle like `brief`, changed.
fn variant(name: &str, change: impl FnOnce(&mut Value)) -> Result<()> {
    let mut config: Value = serde_json::from_slice(&fs::read("brief/config.json")?)?;
    config["root"]["path"] = json!(fs::canonicalize("brief/rootfs")?);
    change(&mut config);
    fs::create_dir_all(name)?;
    Ok(fs::write(Path::new(name).join("config.json"), config.to_string())?)
}

fn bundle_mounts(runtimes: &[Runtime]) -> Result<Chart> {
    let mut chart = Chart::new("scale-bundle-mounts.svg", "run, by mounts of the bundle", "mounts");
    for size in [1, 10, 50, 100, 200] {
        variant("mounts", |config| {
            let mounts = config["mounts"].as_array_mut().expect("mounts");
            let more = (0..size).map(|number| {
                json!({"destination": format!("/tmp/{number}"), "source": "/tmp", "type": "bind", "options": ["rbind", "ro"]})
            });
            mounts.extend(more);
        })?;
        runs(&mut chart, runtimes, size, "mounts")?;
    }
    Ok(chart)
}

fn config_size(runtimes: &[Runtime]) -> Result<Chart> {
    let mut chart = Chart::new("scale-config.svg", "run, by size of config.json", "KiB");
    for size in [10, 100, 1000] {
        variant("large", |config| {
            let value = "x".repeat(1000);
            let annotations = (0..size).map(|number| (format!("org.example.{number}"), json!(value)));
            config["annotations"] = Value::Object(annotations.collect());
        })?;
        runs(&mut chart, runtimes, size, "large")?;
    }
    Ok(chart)
}

/// So many commands at a time until 128 are done: what one takes, its median and its 99th percentile, and the whole.
fn concurrent(
    runtimes: &[Runtime],
    what: &'static str,
    file: &'static str,
    title: &'static str,
) -> Result<Chart> {
    const WHOLE: usize = 128;
    let mut chart = Chart::new(file, title, "at a time");
    for runtime in runtimes {
        runtime.run("run --detach --bundle lasting ID-lasting")?;
    }
    for size in [1, 2, 4, 8, 16, 32, 64] {
        for runtime in runtimes {
            let line = |number: usize| match what {
                "create" => format!("create --bundle brief ID-{number}"),
                _ => "exec ID-lasting /bin/true".to_owned(),
            };
            let begin = Instant::now();
            let mut times = at_a_time(size, WHOLE, |number| runtime.command(&line(number)))?;
            let each = begin.elapsed().as_secs_f64() * 1e3 / WHOLE as f64;
            times.sort_by(f64::total_cmp);
            chart.add(&format!("{} each", runtime.name), size, each);
            chart.add(&format!("{} p50", runtime.name), size, times[WHOLE / 2]);
            chart.add(&format!("{} p99", runtime.name), size, times[WHOLE * 99 / 100]);
            if what == "create" {
                (0..WHOLE).try_for_each(|number| runtime.run(&format!("delete --force ID-{number}")))?;
            }
        }
    }
    for runtime in runtimes {
        runtime.run("delete --force ID-lasting")?;
    }
    Ok(chart)
}

/// Milliseconds of each command, never more than `size` of them at once.
fn at_a_time(size: usize, whole: usize, command: impl Fn(usize) -> Command) -> Result<Vec<f64>> {
    let (mut running, mut times, mut next) = (Vec::new(), Vec::new(), 0);
    while times.len() < whole {
        while running.len() < size && next < whole {
            let mut command = command(next);
            let child = command.stdin(Stdio::null()).stdout(Stdio::null()).spawn()?;
            running.push((child, Instant::now()));
            next += 1;
        }
        let mut ended = None;
        while ended.is_none() {
            for (number, (child, begin)) in running.iter_mut().enumerate() {
                if let Some(status) = child.try_wait()? {
                    ensure!(status.success(), "one of {size} at a time: {status}");
                    ended = Some((number, begin.elapsed()));
                    break;
                }
            }
            std::thread::sleep(std::time::Duration::from_micros(100));
        }
        if let Some((number, took)) = ended {
            running.swap_remove(number);
            times.push(took.as_secs_f64() * 1e3);
        }
    }
    Ok(times)
}
