//! What corten can do, as features.md wants it said.
//!
//! Runs outside. Every list is the table that parses, so what is listed is what is understood. "Enabled" means
//! that corten can, not that this host does.

use serde_json::{Value, json};

use super::facts::Facts;
use super::seccomp::{self, words};
use super::{annotations, capabilities, hooks, mount_options, namespaces, scheduling};

/// The oldest specification whose configurations are taken.
const OLDEST_SPECIFICATION: &str = "1.0.0";

pub fn document(facts: &Facts) -> Value {
    let known = words::FLAGS;
    let supported = known.iter().filter(|flag| flag.bit & !facts.filter_flags == 0);
    json!({
        "ociVersionMin": OLDEST_SPECIFICATION,
        "ociVersionMax": hooks::SPECIFICATION,
        "hooks": names(hooks::POINTS, |row| row.name),
        "mountOptions": mount_options::names(),
        "linux": {
            "namespaces": sorted(names(namespaces::KINDS, |kind| kind.name)),
            "capabilities": capabilities::NAMES,
            "cgroup": {"v1": true, "v2": true, "systemd": true, "systemdUser": true, "rdma": true},
            "seccomp": {
                "enabled": true,
                "actions": names(words::ACTIONS, |action| action.name),
                "operators": names(words::OPERATORS, |operator| operator.name),
                "archs": names(seccomp::ARCHITECTURES, |architecture| architecture.name),
                "knownFlags": known.iter().map(|flag| flag.name).collect::<Vec<_>>(),
                "supportedFlags": supported.map(|flag| flag.name).collect::<Vec<_>>(),
            },
            "apparmor": {"enabled": true},
            "selinux": {"enabled": true},
            "intelRdt": {"enabled": true, "schemata": true, "monitoring": true},
            "memoryPolicy": {
                "modes": names(scheduling::MEMORY_MODES, |mode| mode.name),
                "flags": names(scheduling::MEMORY_FLAGS, |(name, _)| name),
            },
            "mountExtensions": {"idmap": {"enabled": true}},
            "netDevices": {"enabled": true},
        },
        "annotations": {"org.corten.version": env!("CARGO_PKG_VERSION")},
        "potentiallyUnsafeConfigAnnotations": annotations::UNSAFE,
    })
}

fn names<T>(table: &'static [T], name: impl Fn(&'static T) -> &'static str) -> Vec<&'static str> {
    table.iter().map(name).collect()
}

fn sorted(mut names: Vec<&'static str>) -> Vec<&'static str> {
    names.sort_unstable();
    names
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::facts::Authority;
    use crate::plan::testing::host;

    #[test]
    fn every_word_that_engines_look_for_is_there() {
        let features = document(&host(Authority::Root));
        let has = |pointer: &str, word: &str| {
            let listed = features.pointer(pointer).and_then(Value::as_array).unwrap();
            assert!(listed.iter().any(|listed| listed == word), "{pointer}: no {word}");
        };
        has("/mountOptions", "rro");
        has("/mountOptions", "idmap");
        has("/hooks", "createContainer");
        has("/linux/namespaces", "time");
        has("/linux/capabilities", "CAP_CHECKPOINT_RESTORE");
        has("/linux/seccomp/actions", "SCMP_ACT_NOTIFY");
        has("/linux/memoryPolicy/modes", "MPOL_WEIGHTED_INTERLEAVE");
        assert_eq!(features["linux"]["mountExtensions"]["idmap"]["enabled"], true);
    }

    #[test]
    fn cve_2024_3154_properties_of_units_are_named_as_unsafe() {
        let features = document(&host(Authority::Root));
        let unsafe_ones = features["potentiallyUnsafeConfigAnnotations"].as_array().unwrap();
        assert!(unsafe_ones.iter().any(|name| name == "org.systemd.property."), "{unsafe_ones:?}");
    }

    #[test]
    fn a_flag_that_the_kernel_lacks_is_known_but_not_supported() {
        let old = Facts { filter_flags: 0, ..host(Authority::Root) };
        let features = document(&old);
        let lists = |name: &str| {
            let flags = features["linux"]["seccomp"][name].as_array().unwrap();
            flags.iter().any(|flag| flag == "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV")
        };
        assert!(lists("knownFlags"));
        assert!(!lists("supportedFlags"));
    }
}
