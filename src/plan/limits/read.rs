//! Reading `linux.resources` for the table: one value or a list of them, checked.
//!
//! Pure. Errors carry the path below the row's field; `limits.rs` puts the rest before it.

use std::collections::HashMap;

use crate::plan::scheduling;
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

pub type Read = Result<Vec<Asked>, Wrong>;

/// Why a value is refused.
#[derive(Debug)]
pub struct Wrong {
    pub at: String,
    pub reason: String,
}

impl From<String> for Wrong {
    fn from(reason: String) -> Wrong {
        Wrong { at: String::new(), reason }
    }
}

impl Wrong {
    fn under(self, place: &str) -> Wrong {
        Wrong { at: place.to_string() + &self.at, ..self }
    }
}

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
        return Err(format!("{number} is not {meaning}").into());
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

/// A list of processors or memory nodes, such as `0-3,7` (cpuset(7), list format).
pub fn units(asked: Option<&str>) -> Read {
    if let Some(list) = asked {
        scheduling::units(list).map_err(|error| error.to_string())?;
    }
    text(asked)
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
    if let (Some(burst), Some(quota @ 0..)) = (burst, quota(resources))
        && i128::from(burst) > quota
    {
        return Err(format!("{burst} is more than the quota, {quota}").into());
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
            Err(format!("{swap} is for memory and swap together, but there is no memory.limit").into())
        }
        (Some(limit), Some(swap @ 1..)) if swap < limit => {
            Err(format!("{swap} is for memory and swap together, and below memory.limit, {limit}").into())
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
        let asked = weight(weight_of(device)).map_err(|wrong| wrong.under(&format!(".{member}")))?;
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
            let reason = format!("{size:?} is not a size like 64KB, 2MB or 1GB");
            return Err(Wrong { at: ".pageSize".into(), reason });
        }
        let asked = limit(Some(page.limit())).map_err(|wrong| wrong.under(".limit"))?;
        Ok(asked.into_iter().map(|asked| Asked { at: ".limit".into(), key: size.clone(), ..asked }).collect())
    })
}

pub fn class_id(resources: &LinuxResources) -> Read {
    number(resources.network().as_ref().and_then(|network| network.class_id()))
}

pub fn priorities(resources: &LinuxResources) -> Read {
    let network = resources.network().clone().unwrap_or_default();
    list(network.priorities().as_deref().unwrap_or_default(), |interface| {
        let key = one_word(interface.name()).map_err(|wrong| wrong.under(".name"))?;
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
            let at = format!("[{name:?}]");
            let text = one_word(name).map_err(|wrong| wrong.under(&at))? + &text;
            asked.push(Asked { at, text, ..Asked::default() });
        }
    }
    Ok(asked)
}

/// Files of v2, by name. The kernel takes one line in one write(2).
pub fn unified(resources: &LinuxResources) -> Read {
    let Some(files) = resources.unified() else { return Ok(Vec::new()) };
    let mut asked = Vec::new();
    for (file, lines) in sorted(files) {
        let at = format!("[{file:?}]");
        if !file.contains('.') || file.starts_with('.') || file.contains('/') {
            return Err(Wrong { at, reason: "not the name of a cgroup file (CONTROLLER.NAME)".into() });
        }
        if NOT_LIMITS.contains(&file.as_str()) {
            return Err(Wrong { at, reason: "not a limit".into() });
        }
        if lines.lines().all(|line| line.trim().is_empty()) {
            return Err(Wrong { at, reason: "is empty, which the kernel would pass over".into() });
        }
        asked.extend(lines.lines().map(|line| Asked {
            at: at.clone(),
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
        let asked = read(element).map_err(|wrong| wrong.under(&format!("[{index}]")))?;
        all.extend(asked.into_iter().map(|asked| Asked { at: format!("[{index}]{}", asked.at), ..asked }));
    }
    Ok(all)
}

fn sorted<T>(map: &HashMap<String, T>) -> Vec<(&String, &T)> {
    let mut members: Vec<_> = map.iter().collect();
    members.sort_by_key(|(name, _)| *name);
    members
}

fn device_number(major: i64, minor: i64) -> Result<String, Wrong> {
    if major < 0 || minor < 0 {
        return Err(format!("{major}:{minor} is not a device number").into());
    }
    Ok(format!("{major}:{minor}"))
}

fn one_word(name: &str) -> Result<String, Wrong> {
    if name.is_empty() || name.contains(char::is_whitespace) {
        return Err(format!("{name:?} is not a name").into());
    }
    Ok(name.to_string())
}
