//! Reading `linux.resources` for the table: one value or a list of them, checked.
//!
//! Pure. `limits.rs` puts the row's JSON path before every error; lists add their index here.

use std::fmt::Display;

use anyhow::{Result, bail, ensure};
use oci_spec::runtime::{
    LinuxBlockIo, LinuxCpu, LinuxMemory, LinuxResources, LinuxThrottleDevice, LinuxWeightDevice,
};

/// One value that was asked for.
#[derive(Debug, Default)]
pub struct Asked {
    /// Where, below the row's field: `[1].rate`.
    pub at: String,
    /// What the value is for, in a list: a page size, a device, an interface, a file.
    pub key: String,
    /// -1 is "no limit", for fields that can say so; a switch is 0 or 1.
    pub number: i128,
    /// For limits that are no numbers.
    pub text: String,
}

pub type Read = Result<Vec<Asked>>;

/// Files of the cgroup core that move or stop processes, or take controllers away: not limits.
const NOT_LIMITS: [&str; 6] = [
    "cgroup.procs",
    "cgroup.threads",
    "cgroup.kill",
    "cgroup.freeze",
    "cgroup.type",
    "cgroup.subtree_control",
];

pub fn number(asked: Option<impl Into<i128>>) -> Read {
    Ok(asked.map(|number| Asked { number: number.into(), ..Asked::default() }).into_iter().collect())
}

/// A number for which 0 means "not set", as in all runtimes.
pub fn nonzero<T: Into<i128> + Copy>(asked: Option<T>) -> Option<i128> {
    asked.map(Into::into).filter(|number| *number != 0)
}

pub fn ranged(asked: Option<impl Into<i128>>, valid: impl Fn(i128) -> bool, meaning: &str) -> Read {
    let asked = asked.map(Into::into);
    if let Some(number) = asked.filter(|number| !valid(*number)) {
        bail!("{number} is not {meaning}");
    }
    number(asked)
}

pub fn limit(asked: Option<impl Into<i128>>) -> Read {
    ranged(asked, |number| number >= -1, "a limit or -1 (none)")
}

pub fn text(asked: Option<&str>) -> Read {
    let asked = asked.filter(|text| !text.is_empty());
    Ok(asked.map(|text| Asked { text: text.to_string(), ..Asked::default() }).into_iter().collect())
}

pub fn cpu(resources: &LinuxResources) -> LinuxCpu {
    resources.cpu().clone().unwrap_or_default()
}

/// -1 for none, however it is said.
pub fn quota(resources: &LinuxResources) -> Option<i128> {
    nonzero(cpu(resources).quota()).map(|quota| quota.max(-1))
}

pub fn burst(resources: &LinuxResources) -> Read {
    let burst = cpu(resources).burst();
    if let (Some(burst), Some(quota @ 0..)) = (burst, quota(resources)) {
        ensure!(i128::from(burst) <= quota, "{burst} is more than the quota, {quota}");
    }
    number(burst)
}

pub fn memory(resources: &LinuxResources) -> LinuxMemory {
    resources.memory().unwrap_or_default()
}

pub fn swap(resources: &LinuxResources) -> Read {
    let memory = memory(resources);
    match (nonzero(memory.limit()), nonzero(memory.swap())) {
        // Without a limit for memory none is meant for swap.
        (Some(-1), None) => number(Some(-1)),
        (None, Some(swap @ 1..)) => {
            bail!("{swap} is for memory and swap together, but there is no memory.limit")
        }
        (Some(limit), Some(swap @ 1..)) if swap < limit => {
            bail!("{swap} is for memory and swap together, and below memory.limit, {limit}")
        }
        (_, swap) => limit(swap),
    }
}

pub fn block_io(resources: &LinuxResources) -> LinuxBlockIo {
    resources.block_io().clone().unwrap_or_default()
}

pub fn weight(asked: Option<u16>) -> Read {
    ranged(nonzero(asked), |weight| (10..=1000).contains(&weight), "a weight from 10 to 1000")
}

pub fn device_weights(
    resources: &LinuxResources,
    member: &str,
    weight_of: fn(&LinuxWeightDevice) -> Option<u16>,
) -> Read {
    let io = block_io(resources);
    let devices = io.weight_device().as_deref().unwrap_or_default();
    list(devices, |device| {
        let asked = weight(weight_of(device)).map_err(|error| error.context(member.to_string()))?;
        let key = device_number(device.major(), device.minor())?;
        Ok(asked
            .into_iter()
            .map(|asked| Asked { at: format!(".{member}"), key: key.clone(), ..asked })
            .collect())
    })
}

pub fn throttles(devices: &Option<Vec<LinuxThrottleDevice>>) -> Read {
    list(devices.as_deref().unwrap_or_default(), |device| {
        let key = device_number(device.major(), device.minor())?;
        Ok(vec![Asked { at: ".rate".into(), key, number: device.rate().into(), ..Asked::default() }])
    })
}

pub fn huge_pages(resources: &LinuxResources) -> Read {
    list(resources.hugepage_limits().as_deref().unwrap_or_default(), |page| {
        let size = page.page_size();
        let digits = size.strip_suffix('B').and_then(|size| size.strip_suffix(['K', 'M', 'G']));
        if !digits.is_some_and(|digits| !digits.starts_with('0') && digits.parse::<u64>().is_ok()) {
            bail!("pageSize: {size:?} is not a size like 64KB, 2MB or 1GB");
        }
        let asked = limit(Some(page.limit()))?;
        Ok(asked.into_iter().map(|asked| Asked { at: ".limit".into(), key: size.clone(), ..asked }).collect())
    })
}

pub fn class_id(resources: &LinuxResources) -> Read {
    number(resources.network().as_ref().and_then(|network| network.class_id()))
}

pub fn priorities(resources: &LinuxResources) -> Read {
    let network = resources.network().clone().unwrap_or_default();
    list(network.priorities().as_deref().unwrap_or_default(), |interface| {
        let key = one_word("name", interface.name())?;
        Ok(vec![Asked {
            at: ".priority".into(),
            key,
            number: interface.priority().into(),
            ..Asked::default()
        }])
    })
}

pub fn rdma(resources: &LinuxResources) -> Read {
    let Some(devices) = resources.rdma() else { return Ok(Vec::new()) };
    let mut asked = Vec::new();
    for (name, device) in sorted(devices) {
        let handles = device.hca_handles().map(|handles| format!(" hca_handle={handles}"));
        let objects = device.hca_objects().map(|objects| format!(" hca_object={objects}"));
        let text: String = handles.into_iter().chain(objects).collect();
        if !text.is_empty() {
            let text = one_word("a device", name)? + &text;
            asked.push(Asked { at: format!("[{name:?}]"), text, ..Asked::default() });
        }
    }
    Ok(asked)
}

/// Files of v2, by name. The kernel takes one line in one write(2).
pub fn unified(resources: &LinuxResources) -> Read {
    let Some(files) = resources.unified() else { return Ok(Vec::new()) };
    let mut asked = Vec::new();
    for (file, lines) in sorted(files) {
        ensure!(
            file.contains('.') && !file.starts_with('.') && !file.contains('/'),
            "{file:?} is not the name of a cgroup file (CONTROLLER.NAME)"
        );
        ensure!(!NOT_LIMITS.contains(&file.as_str()), "{file:?} is not a limit");
        asked.extend(lines.lines().map(|line| Asked {
            at: format!("[{file:?}]"),
            key: file.clone(),
            text: line.to_string(),
            ..Asked::default()
        }));
    }
    Ok(asked)
}

/// Every element with its index before whatever is said about it.
fn list<T>(elements: &[T], read: impl Fn(&T) -> Read) -> Read {
    let mut all = Vec::new();
    for (index, element) in elements.iter().enumerate() {
        let asked = read(element).map_err(|error| error.context(format!("[{index}]")))?;
        all.extend(asked.into_iter().map(|asked| Asked { at: format!("[{index}]{}", asked.at), ..asked }));
    }
    Ok(all)
}

fn sorted<T>(map: &std::collections::HashMap<String, T>) -> Vec<(&String, &T)> {
    let mut members: Vec<_> = map.iter().collect();
    members.sort_by_key(|(name, _)| *name);
    members
}

fn device_number(major: i64, minor: i64) -> Result<String> {
    ensure!(major >= 0 && minor >= 0, "{major}:{minor} is not a device number");
    Ok(format!("{major}:{minor}"))
}

fn one_word(what: impl Display, name: &str) -> Result<String> {
    ensure!(!name.is_empty() && !name.contains(char::is_whitespace), "{name:?} cannot be the name of {what}");
    Ok(name.to_string())
}
