//! Id mappings, of a user namespace or of a mount: what the kernel would take as one.
//!
//! Runs outside. Knows user_namespaces(7), not who writes the maps.

use anyhow::{Result, ensure};
use oci_spec::runtime::LinuxIdMapping;

use super::IdMapping;

/// The kernel's own limit (`UID_GID_MAP_MAX_EXTENTS`).
const MOST_ENTRIES: usize = 340;

/// The mappings at `path` in the configuration.
pub fn parse(listed: &[LinuxIdMapping], path: &str) -> Result<Vec<IdMapping>> {
    let mapping = |listed: &LinuxIdMapping| IdMapping {
        inside: listed.container_id(),
        outside: listed.host_id(),
        count: listed.size(),
    };
    checked(listed.iter().map(mapping).collect(), path)
}

/// Mappings that the kernel would take as one map.
pub fn checked(mappings: Vec<IdMapping>, path: &str) -> Result<Vec<IdMapping>> {
    ensure!(mappings.len() <= MOST_ENTRIES, "{path}: more than {MOST_ENTRIES} entries");
    for (index, mapping) in mappings.iter().enumerate() {
        ensure!(mapping.count > 0, "{path}[{index}].size: must be at least 1");
        let fits = |first: u32| first.checked_add(mapping.count).is_some();
        ensure!(fits(mapping.inside), "{path}[{index}]: containerID + size is beyond the last id");
        ensure!(fits(mapping.outside), "{path}[{index}]: hostID + size is beyond the last id");
        for (other, earlier) in mappings[..index].iter().enumerate() {
            let overlap = |a: u32, b: u32| a < b + earlier.count && b < a + mapping.count;
            let overlaps =
                overlap(mapping.inside, earlier.inside) || overlap(mapping.outside, earlier.outside);
            ensure!(!overlaps, "{path}[{index}]: overlaps with {path}[{other}]");
        }
    }
    Ok(mappings)
}

/// Root inside is who asks, and the ids that it may map as well follow.
pub fn own_and_subordinate(own: u32, subordinate: &[(u32, u32)]) -> Vec<IdMapping> {
    let mut mappings = vec![IdMapping { inside: 0, outside: own, count: 1 }];
    let mut inside: u32 = 1;
    for &(outside, count) in subordinate.iter().take(MOST_ENTRIES - 1) {
        let Some(next) = inside.checked_add(count) else { break };
        mappings.push(IdMapping { inside, outside, count });
        inside = next;
    }
    mappings
}

/// What `id` inside is outside.
pub fn outside(mappings: &[IdMapping], id: u32) -> Option<u32> {
    let found = mappings.iter().find(|mapping| id.wrapping_sub(mapping.inside) < mapping.count)?;
    Some(found.outside + (id - found.inside))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mappings(listed: &[(u32, u32, u32)]) -> Result<Vec<IdMapping>> {
        let listed: Vec<LinuxIdMapping> = listed
            .iter()
            .map(|(inside, outside, size)| {
                serde_json::from_value(
                    serde_json::json!({"containerID": inside, "hostID": outside, "size": size}),
                )
                .unwrap()
            })
            .collect();
        parse(&listed, "linux.uidMappings")
    }

    #[test]
    fn ids_are_found_on_the_other_side() {
        let mappings = mappings(&[(0, 1000, 1), (1, 100_000, 65_536)]).unwrap();
        assert_eq!(outside(&mappings, 0), Some(1000));
        assert_eq!(outside(&mappings, 65_536), Some(165_535));
        assert_eq!(outside(&mappings, 65_537), None);
    }

    #[test]
    fn mappings_that_the_kernel_refuses_are_refused_by_name() {
        let refusal = |listed: &[(u32, u32, u32)]| mappings(listed).unwrap_err().to_string();
        assert_eq!(refusal(&[(0, 0, 0)]), "linux.uidMappings[0].size: must be at least 1");
        assert_eq!(
            refusal(&[(u32::MAX, 0, 1)]),
            "linux.uidMappings[0]: containerID + size is beyond the last id"
        );
        assert_eq!(
            refusal(&[(0, 1000, 10), (9, 5000, 1)]),
            "linux.uidMappings[1]: overlaps with linux.uidMappings[0]"
        );
        assert_eq!(
            refusal(&[(0, 1000, 10), (20, 1009, 1)]),
            "linux.uidMappings[1]: overlaps with linux.uidMappings[0]"
        );
    }
}
