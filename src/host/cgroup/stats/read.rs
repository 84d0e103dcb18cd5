//! The forms of a group's files: a number, a list of CPUs, lines of keys and values, pressure.
//!
//! Runs outside. A file that is not there is what a kernel without that feature has, and never an error; one that
//! does not have its form is.

use std::collections::BTreeMap;
use std::str::FromStr;

use anyhow::{Context, Result};
use nix::errno::Errno;

use super::{Hugetlb, Pressure, Stall};
use crate::host::cgroup::group::Group;

/// The content, if there is such a file. Pressure that was switched off at boot has a file that cannot be read.
pub fn text(group: &Group, file: &str) -> Result<Option<String>> {
    match group.try_read(file) {
        Err(Errno::ENOENT | Errno::ENODEV | Errno::EOPNOTSUPP) => Ok(None),
        text => text.map(Some).with_context(|| format!("read {}", group.path().join(file).display())),
    }
}

/// What `parse` makes of a file, or nothing without the file.
pub fn parsed<T: Default>(group: &Group, file: &str, parse: impl Fn(&str) -> Option<T>) -> Result<T> {
    let Some(text) = text(group, file)? else { return Ok(T::default()) };
    parse(&text).with_context(|| format!("{} says {text:?}", group.path().join(file).display()))
}

pub fn number(group: &Group, file: &str) -> Result<u64> {
    parsed(group, file, |text| value(text.trim()))
}

/// Numbers between blanks, one for each CPU.
pub fn numbers(group: &Group, file: &str) -> Result<Vec<u64>> {
    parsed(group, file, |text| text.split_whitespace().map(value).collect())
}

/// Lines of a key and a number.
pub fn keyed(group: &Group, file: &str) -> Result<BTreeMap<String, u64>> {
    parsed(group, file, |text| {
        let pair =
            |line: &str| line.split_once(' ').and_then(|(key, number)| Some((key.into(), value(number)?)));
        text.lines().map(pair).collect()
    })
}

/// A list as in cpuset(7), such as `0-2,7`.
pub fn list(group: &Group, file: &str) -> Result<Vec<u16>> {
    parsed(group, file, |text| {
        let mut members = Vec::new();
        for range in text.trim().split(',').filter(|range| !range.is_empty()) {
            let (first, last) = range.split_once('-').unwrap_or((range, range));
            members.extend(first.parse::<u16>().ok()?..=last.parse::<u16>().ok()?);
        }
        Some(members)
    })
}

pub fn pressure(group: &Group, file: &str) -> Result<Option<Pressure>> {
    parsed(group, file, |text| {
        let mut pressure = Pressure::default();
        for line in text.lines() {
            let (kind, fields) = line.split_once(' ')?;
            match kind {
                "some" => pressure.some = stall(fields)?,
                "full" => pressure.full = stall(fields)?,
                _ => {}
            }
        }
        Some(Some(pressure))
    })
}

/// The page sizes that a group accounts, each read by `entry`. Reservations count, not faults, where the kernel has
/// them: they are what a limit refuses.
pub fn hugetlb(
    group: &Group,
    usage: &str,
    entry: impl Fn(&str, &str) -> Result<Hugetlb>,
) -> Result<BTreeMap<String, Hugetlb>> {
    let files = group.files()?;
    let sizes = files.iter().filter_map(|file| file.strip_prefix("hugetlb.")?.strip_suffix(usage));
    let entries = sizes.filter(|size| !size.contains('.')).map(|size| {
        let reserved = format!("hugetlb.{size}.rsvd");
        let is_reserved = files.iter().any(|file| *file == format!("{reserved}{usage}"));
        let prefix = if is_reserved { reserved } else { format!("hugetlb.{size}") };
        Ok((size.to_string(), entry(size, &prefix)?))
    });
    entries.collect()
}

pub fn value(text: &str) -> Option<u64> {
    if text == "max" { Some(u64::MAX) } else { text.parse().ok() }
}

/// `avg10=0.00 avg60=0.00 avg300=0.00 total=0`
fn stall(fields: &str) -> Option<Stall> {
    Some(Stall {
        avg10: field(fields, "avg10")?,
        avg60: field(fields, "avg60")?,
        avg300: field(fields, "avg300")?,
        total: field(fields, "total")?,
    })
}

/// One of `key=value` between blanks.
pub fn field<T: FromStr>(fields: &str, key: &str) -> Option<T> {
    let mut pairs = fields.split_whitespace().filter_map(|field| field.split_once('='));
    pairs.find(|(name, _)| *name == key)?.1.parse().ok()
}
