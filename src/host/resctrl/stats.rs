//! What a resource control group may have and has used, in the shape of runc's `events` (`intel_rdt`).
//!
//! Runs outside. What the processor or the kernel lacks is left out, as zeros are.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use serde_json::{Map, Value};

use super::{Resctrl, SCHEMATA, is_there, read};

type Object = Map<String, Value>;

/// A resource: how its lines in `schemata` begin, the members that go to `events`, and its files in `info`.
type Resource = (&'static str, [&'static str; 3], &'static str, &'static [&'static str]);

const RESOURCES: [Resource; 2] = [
    (
        "L3",
        ["l3_cache_info", "l3_cache_schema_root", "l3_cache_schema"],
        "info/L3",
        &["cbm_mask", "min_cbm_bits", "num_closids"],
    ),
    (
        "MB",
        ["mem_bw_info", "mem_bw_schema_root", "mem_bw_schema"],
        "info/MB",
        &["bandwidth_gran", "delay_linear", "min_bandwidth", "num_closids"],
    ),
];

/// Files of each domain in `mon_data`.
const COUNTERS: [(&str, &[&str]); 2] =
    [("mbm_stats", &["mbm_total_bytes", "mbm_local_bytes"]), ("cmt_stats", &["llc_occupancy"])];

impl Resctrl {
    pub fn stats(&self) -> Result<Object> {
        let mut stats = Object::new();
        let (of_all, own) = (read(&self.root.join(SCHEMATA))?, self.schemata()?);
        for (start, [info, whole, part], directory, files) in RESOURCES {
            put(&mut stats, info, values(&self.root.join(directory), files)?);
            put(&mut stats, whole, line(&of_all, start));
            put(&mut stats, part, line(&own, start));
        }
        // Of a named group without a monitoring group of the container's own, others have used their part.
        let Some(watched) = self.monitor.as_ref().or(self.remove.then_some(&self.group)) else {
            return Ok(stats);
        };
        let data = watched.join("mon_data");
        let domains = domains(&data)?;
        for (member, files) in COUNTERS {
            let mut counted = Vec::new();
            for domain in &domains {
                counted.push(values(&data.join(domain), files)?);
            }
            if !counted.iter().all(is_empty) {
                put(&mut stats, member, Value::Array(counted));
            }
        }
        Ok(stats)
    }
}

fn put(object: &mut Object, member: &str, value: Value) {
    if !is_empty(&value) {
        object.insert(member.to_string(), value);
    }
}

fn is_empty(value: &Value) -> bool {
    value.is_null() || value.as_object().is_some_and(Object::is_empty)
}

fn line(schemata: &str, start: &str) -> Value {
    let line = schemata.lines().map(str::trim).find(|line| line.starts_with(start));
    line.map_or(Value::Null, |line| Value::String(line.to_string()))
}

/// The caches that are watched, in the order of their numbers; none on a processor that cannot.
fn domains(data: &Path) -> Result<Vec<String>> {
    let mut names = Vec::new();
    if !is_there(data)? {
        return Ok(names);
    }
    for entry in fs::read_dir(data).with_context(|| format!("list {data:?}"))? {
        let entry = entry.with_context(|| format!("list {data:?}"))?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.starts_with("mon_L3_") {
            names.push(name);
        }
    }
    names.sort();
    Ok(names)
}

/// What the files of a directory say, as far as they are there and say a number, or a mask.
fn values(directory: &Path, files: &[&str]) -> Result<Value> {
    let mut values = Object::new();
    for file in files {
        let path = directory.join(file);
        if !is_there(&path)? {
            continue;
        }
        let text = read(&path)?;
        let text = text.trim();
        let value = match text.parse::<u64>() {
            _ if *file == "cbm_mask" => Value::String(text.to_string()),
            // "Unavailable" or "Error", where a counter is not to be had now.
            Ok(0) | Err(_) => Value::Null,
            Ok(number) => Value::Number(number.into()),
        };
        put(&mut values, file, value);
    }
    Ok(Value::Object(values))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// A directory that looks like resctrl with these files.
    fn filesystem(files: &[(&str, &str)]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for (file, text) in files {
            let path = root.path().join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        root
    }

    fn group(root: &Path, monitor: Option<&str>, remove: bool) -> Resctrl {
        let monitor = monitor.map(|name| root.join("web/mon_groups").join(name));
        Resctrl { root: root.into(), group: root.join("web"), monitor, remove }
    }

    #[test]
    fn a_group_is_told_of_as_runc_does() {
        let root = filesystem(&[
            ("schemata", "    MB:0=100;1=100\n    L3:0=fff;1=fff\n"),
            ("info/L3/cbm_mask", "fff\n"),
            ("info/L3/min_cbm_bits", "1\n"),
            ("info/L3/num_closids", "16\n"),
            ("info/MB/bandwidth_gran", "10\n"),
            ("info/MB/delay_linear", "1\n"),
            ("info/MB/min_bandwidth", "10\n"),
            ("info/MB/num_closids", "8\n"),
            ("web/schemata", "    MB:0=20;1=70\n    L3:0=7f0;1=1f\n"),
            ("web/mon_groups/web/mon_data/mon_L3_01/llc_occupancy", "65536\n"),
            ("web/mon_groups/web/mon_data/mon_L3_01/mbm_total_bytes", "Unavailable\n"),
            ("web/mon_groups/web/mon_data/mon_L3_00/llc_occupancy", "4096\n"),
            ("web/mon_groups/web/mon_data/mon_L3_00/mbm_total_bytes", "300\n"),
            ("web/mon_groups/web/mon_data/mon_L3_00/mbm_local_bytes", "100\n"),
            ("web/mon_groups/web/mon_data/mon_PERF_PKG_00/activity", "1.5\n"),
            ("web/mon_data/mon_L3_00/llc_occupancy", "1\n"),
        ]);
        let told = group(root.path(), Some("web"), true).stats().unwrap();
        assert_eq!(
            Value::Object(told),
            json!({
                "l3_cache_info": {"cbm_mask": "fff", "min_cbm_bits": 1, "num_closids": 16},
                "l3_cache_schema_root": "L3:0=fff;1=fff",
                "l3_cache_schema": "L3:0=7f0;1=1f",
                "mem_bw_info": {"bandwidth_gran": 10, "delay_linear": 1, "min_bandwidth": 10, "num_closids": 8},
                "mem_bw_schema_root": "MB:0=100;1=100",
                "mem_bw_schema": "MB:0=20;1=70",
                "mbm_stats": [{"mbm_total_bytes": 300, "mbm_local_bytes": 100}, {}],
                "cmt_stats": [{"llc_occupancy": 4096}, {"llc_occupancy": 65536}],
            })
        );
    }

    #[test]
    fn what_a_processor_lacks_and_what_others_have_used_is_left_out() {
        let root = filesystem(&[
            ("schemata", "L3:0=f\n"),
            ("info/L3/cbm_mask", "f\n"),
            ("web/schemata", "L3:0=3\n"),
            ("web/mon_data/mon_L3_00/llc_occupancy", "4096\n"),
        ]);
        let told = |remove| Value::Object(group(root.path(), None, remove).stats().unwrap());
        let schemata = json!({
            "l3_cache_info": {"cbm_mask": "f"}, "l3_cache_schema_root": "L3:0=f", "l3_cache_schema": "L3:0=3",
        });
        assert_eq!(told(false), schemata);
        assert_eq!(told(true)["cmt_stats"], json!([{"llc_occupancy": 4096}]));
        fs::remove_file(root.path().join("web/schemata")).unwrap();
        let gone = group(root.path(), None, true).stats().unwrap_err().to_string();
        assert!(gone.ends_with("web/schemata"), "{gone}");
    }
}
