//! New limits over those that a container was made with.
//!
//! Runs outside. Pure: JSON in, JSON out, and the settings in which two sets of limits differ. What is not said stays
//! as it is; a list is merged by what its elements are about. Device rules are none of its business: a container that
//! loses them for a moment loses its devices.

use serde_json::{Value, json};

use super::limits::Setting;

/// Members for which 0, or an empty list, has always meant "not said".
const EMPTY_IS_ABSENT: &[(&str, &[&str])] = &[
    ("blockIO", &["weight", "leafWeight"]),
    ("cpu", &["shares", "quota", "period", "realtimeRuntime", "realtimePeriod", "cpus", "mems"]),
    ("memory", &["limit", "reservation", "swap", "kernel", "kernelTCP"]),
];

/// What says which device, page size or interface an element of a list is about.
const IDENTITY: &[&str] = &["pageSize", "major", "minor", "name"];

/// Put new limits over those of a container, each as its `linux.resources`.
pub fn merge(resources: &mut Value, mut update: Value) {
    if let Some(members) = update.as_object_mut() {
        members.remove("devices");
    }
    for (group, members) in EMPTY_IS_ABSENT {
        let Some(group) = update.get_mut(*group).and_then(Value::as_object_mut) else { continue };
        group.retain(|name, value| (*value != 0 && *value != "") || !members.contains(&name.as_str()));
    }
    prune(&mut update);
    // Without a limit for memory, what was one for memory and swap together would limit it still.
    if update.pointer("/memory/limit") == Some(&json!(-1)) && update.pointer("/memory/swap").is_none() {
        update["memory"]["swap"] = json!(-1);
    }
    overlay(resources, update);
}

/// Take out what says nothing: an object without its number would be read as one with the number 0.
fn prune(value: &mut Value) {
    if let Value::Object(members) = value {
        members.values_mut().for_each(prune);
        members.retain(|_, member| !member.is_null() && *member != json!({}));
    }
}

/// Put the members of one document over another's; null says nothing.
pub fn overlay(old: &mut Value, new: Value) {
    match (old, new) {
        (_, Value::Null) => {}
        (Value::Object(old), Value::Object(new)) => {
            for (name, value) in new {
                overlay(old.entry(name).or_insert(Value::Null), value);
            }
        }
        (Value::Array(old), Value::Array(new)) => {
            for element in new {
                match old.iter_mut().find(|known| is_about_the_same(known, &element)) {
                    Some(known) => overlay(known, element),
                    None => old.push(element),
                }
            }
        }
        (old, new) => *old = new,
    }
}

fn is_about_the_same(one: &Value, other: &Value) -> bool {
    IDENTITY.iter().all(|member| one.get(*member) == other.get(*member))
}

/// The settings to write: those that are new, and those that were asked for, since somebody else may have changed the file.
/// Where several are about one file, all of them: the last one counts, or each for its device.
pub fn to_write(asked: &Value, old: &[Setting], new: Vec<Setting>) -> Vec<Setting> {
    let is_old = |setting: &Setting| {
        !is_named(asked, &setting.field)
            && old.iter().any(|known| {
                (known.version, &known.file, &known.value) == (setting.version, &setting.file, &setting.value)
            })
    };
    let files: Vec<_> = new
        .iter()
        .filter(|setting| !is_old(setting))
        .map(|setting| (setting.version, setting.file.clone()))
        .collect();
    new.into_iter()
        .filter(|setting| {
            files.iter().any(|(version, file)| *version == setting.version && *file == setting.file)
        })
        .collect()
}

/// Whether the member that a setting comes from, such as `linux.resources.hugepageLimits[0].limit`, is in an update; of a
/// list, any element of it.
fn is_named(asked: &Value, field: &str) -> bool {
    let member = field.trim_start_matches("linux.resources.").split('[').next().unwrap_or_default();
    let is_there = |member: &str| {
        let found = asked.pointer(&format!("/{}", member.replace('.', "/")));
        found.is_some_and(|value| !value.is_null())
    };
    // v2 has one file for both.
    is_there(member) || member == "cpu.quota" && is_there("cpu.period")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::cgroup::{CgroupLayout, Hierarchy};
    use crate::plan::limits::settings;

    fn merged(old: Value, update: Value) -> Value {
        let mut resources = old;
        merge(&mut resources, update);
        resources
    }

    #[test]
    fn what_is_not_said_stays_as_it_is() {
        let old = json!({"memory": {"limit": 100, "swap": 200}, "pids": {"limit": 5}, "cpu": {"cpus": "0"}});
        assert_eq!(merged(Value::Null, json!({"pids": {"limit": null}})), json!({}));
        for nothing in [
            json!({}),
            json!({"memory": {}, "pids": null}),
            json!({"pids": {}}),
            json!({"pids": {"limit": null}, "blockIO": {"weight": null}}),
            json!({"memory": {"limit": null}}),
            json!({"memory": {"limit": 0, "swap": 0}, "cpu": {"cpus": "", "mems": "", "quota": 0}}),
        ] {
            assert_eq!(merged(old.clone(), nothing.clone()), old, "{nothing}");
        }
        assert_eq!(
            merged(old, json!({"memory": {"limit": 150}, "cpu": {"shares": 7}})),
            json!({
                "memory": {"limit": 150, "swap": 200},
                "pids": {"limit": 5},
                "cpu": {"cpus": "0", "shares": 7}
            })
        );
    }

    #[test]
    fn a_zero_that_is_a_value_is_one() {
        let update = json!({"pids": {"limit": 0}, "cpu": {"idle": 0, "burst": 0, "shares": 0}});
        assert_eq!(
            merged(Value::Null, update),
            json!({"pids": {"limit": 0}, "cpu": {"idle": 0, "burst": 0}})
        );
    }

    #[test]
    fn memory_without_a_limit_takes_the_limit_on_swap_away() {
        let old = json!({"memory": {"limit": 100, "swap": 200}});
        assert_eq!(merged(old.clone(), json!({"memory": {"limit": -1}}))["memory"]["swap"], -1);
        let both = json!({"memory": {"limit": -1, "swap": 300}});
        assert_eq!(merged(old, both)["memory"]["swap"], 300);
    }

    #[test]
    fn device_rules_are_left_alone() {
        let old = json!({"devices": [{"allow": false}]});
        assert_eq!(merged(old.clone(), json!({"devices": [{"allow": true}]})), old);
    }

    #[test]
    fn lists_are_merged_by_what_their_elements_are_about() {
        let old =
            json!({"hugepageLimits": [{"pageSize": "2MB", "limit": 1}, {"pageSize": "1GB", "limit": 2}]});
        let update =
            json!({"hugepageLimits": [{"pageSize": "1GB", "limit": 3}, {"pageSize": "64KB", "limit": 4}]});
        assert_eq!(
            merged(old, update)["hugepageLimits"],
            json!([
                {"pageSize": "2MB", "limit": 1}, {"pageSize": "1GB", "limit": 3}, {"pageSize": "64KB", "limit": 4}
            ])
        );
    }

    #[test]
    fn files_are_written_that_have_a_new_value_or_are_asked_for() {
        let controllers = ["cpu", "memory", "pids"].map(String::from).to_vec();
        let layout = CgroupLayout {
            v2: Some(Hierarchy { controllers, directory: "".into() }),
            ..CgroupLayout::default()
        };
        let of = |resources: Value| settings(&serde_json::from_value(resources).unwrap(), &layout).unwrap();
        let written = |old: Value, update: Value| {
            let new = merged(old.clone(), update.clone());
            to_write(&update, &of(old), of(new)).iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        let old = json!({
            "cpu": {"quota": 50_000, "period": 200_000},
            "memory": {"limit": 1 << 20, "swap": 3 << 20},
            "unified": {"pids.max": "9"}
        });
        assert_eq!(written(old.clone(), json!({"cpu": {"shares": null}, "pids": {}})), [""; 0]);
        for named in [json!({"quota": 50_000}), json!({"period": 200_000})] {
            assert_eq!(written(old.clone(), json!({"cpu": named})), ["cpu.max 50000 200000"]);
        }
        assert_eq!(written(old.clone(), json!({"unified": {"pids.max": "9"}})), ["pids.max 9"]);
        assert_eq!(written(old.clone(), json!({"cpu": {"period": 100_000}})), ["cpu.max 50000 100000"]);
        assert_eq!(
            written(old.clone(), json!({"memory": {"limit": 2 << 20}})),
            ["memory.swap.max 1048576", "memory.max 2097152"]
        );
        assert_eq!(written(old, json!({"pids": {"limit": 3}})), ["pids.max 3", "pids.max 9"]);
    }
}
