//! `update`: change the limits of a container, all that were asked for or none.

use std::io::Read as _;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use super::Context;
use crate::cli;
use crate::container::{CONFIG, Container};
use crate::host::cgroup::Cgroup;
use crate::host::resctrl::Resctrl;
use crate::plan::cgroup::CgroupLayout;
use crate::plan::limits::{self, Setting};
use crate::plan::{bundle, resctrl, update as limits_over};

const NOT_RUNNING: &str = "container not running";

pub fn update(context: &Context<'_>, options: &cli::Update) -> Result<()> {
    let mut asked = match &options.resources {
        Some(path) => read_resources(path).context("--resources")?,
        None => json!({}),
    };
    limits_over::overlay(&mut asked, from_options(options));

    let container = Container::enter(&context.store, &options.id)?;
    let init = container.state.init.context(NOT_RUNNING)?;
    ensure!(init.is_alive()?, NOT_RUNNING);
    let location = container.state.cgroup.as_ref().context("the container has no cgroup to limit")?;
    let mut config: Value = serde_json::from_slice(&container.config()?).context("config.json")?;
    let layout = location.layout();
    let before = settings(&config, &layout)?;
    limits_over::merge(&mut config["linux"]["resources"], asked.clone());
    let settings = limits_over::to_write(&asked, &before, settings(&config, &layout)?);
    let classes = classes(&container, options, &mut config)?;
    let after = serde_json::to_vec(&config).context("write config.json")?;
    let cgroup = container.cgroup()?.context("the container has no cgroup to limit")?;
    change(&*cgroup, &settings, || {
        let remember = || container.room.write(CONFIG, &after);
        match &classes {
            Some((group, lines)) => change_classes(group, lines, remember),
            None => remember(),
        }
    })
}

/// The resource control group with its new lines, which become part of the configuration.
fn classes<'a>(
    container: &'a Container,
    options: &cli::Update,
    config: &mut Value,
) -> Result<Option<(&'a Resctrl, Vec<String>)>> {
    let options =
        [("--l3-cache-schema", &options.l3_cache_schema), ("--mem-bw-schema", &options.mem_bw_schema)];
    let Some((first, _)) = options.iter().find(|(_, value)| value.is_some()) else { return Ok(None) };
    let group = container.state.resctrl.as_ref();
    let group = group.with_context(|| format!("{first}: the container has no intelRdt"))?;
    let [(_, cache), (_, bandwidth)] = options;
    let asked = &mut config["linux"]["intelRdt"];
    limits_over::overlay(asked, json!({"l3CacheSchema": cache, "memBwSchema": bandwidth}));
    let asked = serde_json::from_value(asked.take()).context("config.json: linux.intelRdt")?;
    let lines = resctrl::class_lines(&asked)?;
    config["linux"]["intelRdt"] = serde_json::to_value(asked).context("write config.json")?;
    Ok(Some((group, lines)))
}

fn change_classes(group: &Resctrl, lines: &[String], remember: impl FnOnce() -> Result<()>) -> Result<()> {
    let present = group.schemata()?;
    group.write_schemata(lines)?;
    remember().inspect_err(|_| {
        let lines: Vec<String> = present.lines().map(|line| line.trim().to_string()).collect();
        // The first error is the one to report.
        let _ = group.write_schemata(&lines);
    })
}

/// Write what has changed and remember it; where either goes wrong, put back what was there.
fn change(cgroup: &dyn Cgroup, settings: &[Setting], remember: impl FnOnce() -> Result<()>) -> Result<()> {
    let present = cgroup.present(settings)?;
    let Err(error) = cgroup.set_limits(settings).and_then(|()| remember()) else { return Ok(()) };
    Err(match cgroup.restore(&present) {
        Ok(()) => error.context("no limit was changed"),
        Err(also) => error.context(format!("some limits may have changed ({also:#})")),
    })
}

/// What the files are told for this configuration, of which nothing else is looked at.
fn settings(config: &Value, layout: &CgroupLayout) -> Result<Vec<Setting>> {
    let resources = config.pointer("/linux/resources").filter(|resources| !resources.is_null());
    let resources = resources.map(bundle::resources).transpose().context("config.json")?;
    limits::settings(&resources.unwrap_or_default(), layout)
}

fn read_resources(path: &Path) -> Result<Value> {
    if path != Path::new("-") {
        let text = bundle::read(path)?;
        return bundle::parse_resources(&text).with_context(|| path.display().to_string());
    }
    let mut text = Vec::new();
    std::io::stdin().lock().read_to_end(&mut text).context("read standard input")?;
    bundle::parse_resources(&text)
}

/// The options as `linux.resources`; those that are not given are null.
fn from_options(options: &cli::Update) -> Value {
    json!({
        "blockIO": {"weight": options.blkio_weight},
        "cpu": {
            "shares": options.cpu_share,
            "quota": options.cpu_quota,
            "period": options.cpu_period,
            "burst": options.cpu_burst,
            "idle": options.cpu_idle,
            "realtimePeriod": options.cpu_rt_period,
            "realtimeRuntime": options.cpu_rt_runtime,
            "cpus": options.cpuset_cpus,
            "mems": options.cpuset_mems,
        },
        "memory": {
            "limit": options.memory,
            "reservation": options.memory_reservation,
            "swap": options.memory_swap,
            "kernel": options.kernel_memory,
            "kernelTCP": options.kernel_memory_tcp,
        },
        "pids": {"limit": options.pids_limit},
    })
}
