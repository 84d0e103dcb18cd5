//! The shape of `linux.resources` as JSON, before the types read it: they would take what is missing for 0.
//!
//! Pure.

use anyhow::{Result, ensure};
use serde_json::Value;

/// Lists of limits, and what each of their elements must say.
const REQUIRED: &[(&str, &[&str])] = &[
    ("hugepageLimits", &["pageSize", "limit"]),
    ("blockIO.weightDevice", &["major", "minor"]),
    ("blockIO.throttleReadBpsDevice", &["major", "minor", "rate"]),
    ("blockIO.throttleWriteBpsDevice", &["major", "minor", "rate"]),
    ("blockIO.throttleReadIOPSDevice", &["major", "minor", "rate"]),
    ("blockIO.throttleWriteIOPSDevice", &["major", "minor", "rate"]),
    ("network.priorities", &["name", "priority"]),
];

/// Limits as the types can hold them. What says nothing about processes is no limit of 0.
pub fn settle(resources: &mut Value, place: &str) -> Result<()> {
    for (list, members) in REQUIRED {
        let elements = resources.pointer(&format!("/{}", list.replace('.', "/"))).and_then(Value::as_array);
        for (index, element) in elements.into_iter().flatten().enumerate() {
            for member in *members {
                let there = element.get(member).is_some_and(|value| !value.is_null());
                ensure!(there, "{place}{list}[{index}].{member}: missing");
            }
        }
    }
    // A number of bytes that the type has no room for is more than the kernel counts to.
    for page in resources.get_mut("hugepageLimits").and_then(Value::as_array_mut).into_iter().flatten() {
        if page["limit"].as_u64().is_some_and(|limit| i64::try_from(limit).is_err()) {
            page["limit"] = i64::MAX.into();
        }
    }
    if let Some(members) = resources.as_object_mut()
        && members.get("pids").is_some_and(|pids| pids.is_object() && pids["limit"].is_null())
    {
        members.remove("pids");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_the_types_have_no_room_for_is_as_much_as_they_have() {
        let mut resources = json!({"hugepageLimits": [{"pageSize": "2MB", "limit": u64::MAX}, {"pageSize": "1GB", "limit": 1}]});
        settle(&mut resources, "").unwrap();
        assert_eq!(resources["hugepageLimits"][0]["limit"], json!(i64::MAX));
        assert_eq!(resources["hugepageLimits"][1]["limit"], json!(1));
    }
}
