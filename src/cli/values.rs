//! The types that options parse into. Runs outside; reads values, judges none against a container.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use clap::ValueEnum;

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum TableFormat {
    Table,
    Json,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum TextFormat {
    Text,
    Json,
}

/// From few to many records.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub enum LogLevel {
    Error,
    #[value(aliases = ["warn", "info"])]
    Warning,
    #[value(alias = "trace")]
    Debug,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum CgroupManager {
    Cgroupfs,
    Systemd,
    Disabled,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Rootless {
    Auto,
    #[value(aliases = ["1", "t"])]
    True,
    #[value(aliases = ["0", "f"])]
    False,
}

/// Of criu(8), `--manage-cgroups`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum CgroupsMode {
    Soft,
    Full,
    Strict,
    Ignore,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum EmptyNamespace {
    Network,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum NetworkLock {
    Iptables,
    Nftables,
    Skip,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PageServer {
    pub address: String,
    pub port: u16,
}

impl FromStr for PageServer {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parts = text.rsplit_once(':').and_then(|(address, port)| Some((address, port.parse().ok()?)));
        match parts {
            Some((address, port)) if !address.is_empty() && port != 0 => {
                Ok(PageServer { address: address.into(), port })
            }
            _ => Err(format!("{text:?} is not ADDRESS:PORT")),
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LogTarget {
    File(PathBuf),
    Journald(String),
    Syslog(String),
}

impl From<OsString> for LogTarget {
    /// Only a known kind before the colon is one: file names may hold colons too.
    fn from(text: OsString) -> Self {
        let after = |kind: &str| text.as_bytes().strip_prefix(kind.as_bytes());
        let identifier = |name: &[u8]| String::from_utf8_lossy(name).into_owned();
        if let Some(name) = after("journald:") {
            LogTarget::Journald(identifier(name))
        } else if let Some(name) = after("syslog:") {
            LogTarget::Syslog(identifier(name))
        } else {
            LogTarget::File(OsStr::from_bytes(after("file:").unwrap_or(text.as_bytes())).into())
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct User {
    pub uid: u32,
    pub gid: Option<u32>,
}

impl FromStr for User {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (uid, gid) = match text.split_once(':') {
            Some((uid, gid)) => (uid, Some(gid)),
            None => (text, None),
        };
        Ok(User { uid: numeric_id(uid)?, gid: gid.map(numeric_id).transpose()? })
    }
}

// CVE-2026-30892: what strtol made of "" or "-1" was user 0 or no change of user at all. Only digits are a number here,
// and the id that tells the kernel "leave it as it is" is none.
pub(super) fn numeric_id(text: &str) -> Result<u32, String> {
    let digits = Some(text).filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()));
    let id = digits.and_then(|digits| digits.parse().ok()).filter(|id| *id != u32::MAX);
    id.ok_or_else(|| format!("{text:?} is not a numeric id from 0 to {}", u32::MAX - 1))
}

/// No process can hold more descriptors than the kernel's own bound for `fs.nr_open`.
const MAX_DESCRIPTORS: u32 = 0x7fff_ffc0;

pub(super) fn descriptor_count(text: &str) -> Result<u32, String> {
    let count = text.parse().ok().filter(|count| *count <= MAX_DESCRIPTORS);
    count.ok_or_else(|| format!("{text:?} is not a number of file descriptors"))
}

pub(super) fn number<T: FromStr>(text: &str) -> Result<T, String> {
    text.parse().map_err(|_| format!("{text:?} is not a number, or not one in range"))
}

/// Bytes, or a multiple of them as Docker's users write it: `512m`, `1.5g`, `64KiB`. -1 is no limit.
pub(super) fn memory_size(text: &str) -> Result<i64, String> {
    if text == "-1" {
        return Ok(-1);
    }
    let wrong = || format!("{text:?} is neither a size like 512m nor -1");
    let end = text.find(|letter: char| !letter.is_ascii_digit() && letter != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    let unit = unit.trim_start().to_ascii_lowercase();
    let unit = unit.strip_suffix("ib").or(unit.strip_suffix('b')).unwrap_or(&unit);
    let exponent = ["", "k", "m", "g", "t", "p"].iter().position(|one| *one == unit).ok_or_else(wrong)?;
    let factor = 1i64 << (10 * exponent);
    if let Ok(number) = number.parse::<i64>() {
        return number.checked_mul(factor).ok_or_else(wrong);
    }
    let size = number.parse::<f64>().map_err(|_| wrong())? * factor as f64;
    if size < i64::MAX as f64 { Ok(size as i64) } else { Err(wrong()) }
}

/// The units of Go's durations, in nanoseconds; `µ` has two code points.
const UNITS: &[(&str, u128)] = &[
    ("ns", 1),
    ("us", 1000),
    ("\u{b5}s", 1000),
    ("\u{3bc}s", 1000),
    ("ms", 1_000_000),
    ("s", 1_000_000_000),
    ("m", 60_000_000_000),
    ("h", 3_600_000_000_000),
];

/// A span between two records: any duration of Go's but none and one that goes back.
pub(super) fn interval(text: &str) -> Result<Duration, String> {
    let digits = text.strip_prefix(['+', '-']).unwrap_or(text);
    let length = if digits == "0" { Some(0) } else { nanoseconds(digits) };
    let length = length.and_then(|length| i64::try_from(length).ok());
    let length = length.ok_or_else(|| format!("{text:?} is not a duration such as 1m30s or 500ms"))?;
    if length == 0 || text.starts_with('-') {
        return Err("duration interval must be greater than 0".into());
    }
    Ok(Duration::from_nanos(length.unsigned_abs()))
}

/// Numbers with units, one after the other.
fn nanoseconds(mut text: &str) -> Option<u128> {
    const LONGEST_NUMBER: usize = 19;
    let is_number = |letter: char| letter.is_ascii_digit() || letter == '.';
    let mut sum = 0;
    loop {
        let (number, rest) = text.split_at(text.find(|letter| !is_number(letter))?);
        let (unit, rest) = rest.split_at(rest.find(is_number).unwrap_or(rest.len()));
        let (_, unit) = UNITS.iter().find(|(name, _)| *name == unit)?;
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        let both = format!("{whole}{fraction}");
        if both.len() > LONGEST_NUMBER {
            return None;
        }
        sum += both.parse::<u128>().ok()? * unit / 10_u128.pow(fraction.len() as u32);
        if rest.is_empty() {
            return Some(sum);
        }
        text = rest;
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SubCgroup {
    /// Empty for all of them.
    pub controllers: Vec<String>,
    pub path: String,
}

impl FromStr for SubCgroup {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let Some((controllers, path)) = text.split_once(':') else {
            return Ok(SubCgroup { controllers: Vec::new(), path: text.into() });
        };
        let controllers: Vec<String> = controllers.split(',').map(String::from).collect();
        if path.contains(':') || controllers.iter().any(String::is_empty) {
            return Err(format!("{text:?} is not PATH or CONTROLLER,..:PATH"));
        }
        Ok(SubCgroup { controllers, path: path.into() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_is_a_file_unless_its_kind_says_otherwise() {
        for (text, expected) in [
            ("/l", LogTarget::File("/l".into())),
            ("file:/l", LogTarget::File("/l".into())),
            ("a:b", LogTarget::File("a:b".into())),
            ("file:journald:x", LogTarget::File("journald:x".into())),
            ("journald:web", LogTarget::Journald("web".into())),
            ("syslog:web", LogTarget::Syslog("web".into())),
        ] {
            assert_eq!(LogTarget::from(OsString::from(text)), expected, "{text}");
        }
    }

    #[test]
    fn users_are_numeric_with_or_without_a_group() {
        assert_eq!("0".parse(), Ok(User { uid: 0, gid: None }));
        assert_eq!("4294967294:4294967294".parse(), Ok(User { uid: u32::MAX - 1, gid: Some(u32::MAX - 1) }));
        for text in ["", ":", "1:2:3", "1 ", "1,2", "4294967296", "٣"] {
            assert!(text.parse::<User>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_sub_cgroup_is_a_path_of_all_or_of_named_controllers() {
        let cgroup = |controllers: &[&str], path: &str| {
            let controllers = controllers.iter().map(|name| name.to_string()).collect();
            Ok(SubCgroup { controllers, path: path.into() })
        };
        assert_eq!("/a/b".parse(), cgroup(&[], "/a/b"));
        assert_eq!("cpu:/a".parse(), cgroup(&["cpu"], "/a"));
        assert_eq!("cpu,memory:a".parse(), cgroup(&["cpu", "memory"], "a"));
        for text in ["a:b:c", ":a", "cpu,:a"] {
            assert!(text.parse::<SubCgroup>().is_err(), "{text}");
        }
    }

    #[test]
    fn memory_is_bytes_or_a_multiple_of_them_or_unlimited() {
        for (text, expected) in [
            ("-1", -1),
            ("0", 0),
            ("67108864", 64 << 20),
            ("64m", 64 << 20),
            ("64M", 64 << 20),
            ("64MB", 64 << 20),
            ("64MiB", 64 << 20),
            ("64 mb", 64 << 20),
            ("1.5g", 3 << 29),
            ("2t", 2 << 40),
            ("1k", 1024),
            ("9223372036854775807b", i64::MAX),
        ] {
            assert_eq!(memory_size(text), Ok(expected), "{text}");
        }
        for text in ["", "m", "-2", "-1m", "1x", "1.2.3", "inf", "1e3", "9223372036854775807k", "9999999.5p"]
        {
            assert!(memory_size(text).is_err(), "{text}");
        }
    }

    #[test]
    fn an_interval_is_a_duration_as_go_writes_it() {
        for (text, milliseconds) in [
            ("5s", 5000),
            ("500ms", 500),
            ("1m30s", 90_000),
            ("1.5h", 5_400_000),
            (".5s", 500),
            ("1.s", 1000),
            ("+2s", 2000),
            ("3000us", 3),
            ("3000\u{b5}s", 3),
            ("3000000ns", 3),
        ] {
            assert_eq!(interval(text), Ok(Duration::from_millis(milliseconds)), "{text}");
        }
        for text in ["0", "0s", "0h0m", "-5s", "-0", "0.1ns"] {
            assert_eq!(interval(text), Err("duration interval must be greater than 0".into()), "{text}");
        }
        for text in ["", "5", "s", ".s", "5 s", "5S", "1.2.3s", "5s1", "--5s", "300y", "99999999999h", "1e3s"]
        {
            assert!(
                interval(text).unwrap_err().ends_with("is not a duration such as 1m30s or 500ms"),
                "{text}"
            );
        }
    }

    #[test]
    fn no_process_holds_more_descriptors_than_the_kernel_allows() {
        assert_eq!(descriptor_count("2147483584"), Ok(MAX_DESCRIPTORS));
        for text in ["2147483585", "-1", "", "three", "99999999999"] {
            assert!(descriptor_count(text).is_err(), "{text}");
        }
    }
}
