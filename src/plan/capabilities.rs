//! Capabilities: the five sets of a process, as far as we have them to give.
//!
//! Runs outside. Owns the table of names, which `features` prints.

use anyhow::Result;
use oci_spec::runtime::{Capabilities, Capability, Process};

use super::namespaces::Place;
use super::request::Request;
use super::steps::Steps;
use super::{Action, CapabilitySets, Namespace};

/// Every capability of Linux, in the order of their numbers (capabilities(7)).
pub const NAMES: &[&str] = &[
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_DAC_READ_SEARCH",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETPCAP",
    "CAP_LINUX_IMMUTABLE",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_BROADCAST",
    "CAP_NET_ADMIN",
    "CAP_NET_RAW",
    "CAP_IPC_LOCK",
    "CAP_IPC_OWNER",
    "CAP_SYS_MODULE",
    "CAP_SYS_RAWIO",
    "CAP_SYS_CHROOT",
    "CAP_SYS_PTRACE",
    "CAP_SYS_PACCT",
    "CAP_SYS_ADMIN",
    "CAP_SYS_BOOT",
    "CAP_SYS_NICE",
    "CAP_SYS_RESOURCE",
    "CAP_SYS_TIME",
    "CAP_SYS_TTY_CONFIG",
    "CAP_MKNOD",
    "CAP_LEASE",
    "CAP_AUDIT_WRITE",
    "CAP_AUDIT_CONTROL",
    "CAP_SETFCAP",
    "CAP_MAC_OVERRIDE",
    "CAP_MAC_ADMIN",
    "CAP_SYSLOG",
    "CAP_WAKE_ALARM",
    "CAP_BLOCK_SUSPEND",
    "CAP_AUDIT_READ",
    "CAP_PERFMON",
    "CAP_BPF",
    "CAP_CHECKPOINT_RESTORE",
];

/// Whether a configuration's name for a capability means anything; `SYS_ADMIN` and `cap_sys_admin` pass too.
pub fn is_known(name: &str) -> bool {
    number(name).is_some()
}

fn number(name: &str) -> Option<usize> {
    NAMES.iter().position(|known| {
        known.eq_ignore_ascii_case(name) || known["CAP_".len()..].eq_ignore_ascii_case(name)
    })
}

/// One capability by its name on the command line, as a mask.
pub fn parse(name: &str) -> Option<u64> {
    number(name).map(|number| 1 << number)
}

pub fn plan(request: &Request, process: &Process, steps: &mut Steps) -> Result<()> {
    let wanted = process.capabilities().as_ref();
    let wanted = CapabilitySets {
        bounding: mask(wanted.and_then(|sets| sets.bounding().as_ref())),
        effective: mask(wanted.and_then(|sets| sets.effective().as_ref())),
        permitted: mask(wanted.and_then(|sets| sets.permitted().as_ref())),
        inheritable: mask(wanted.and_then(|sets| sets.inheritable().as_ref())),
        ambient: mask(wanted.and_then(|sets| sets.ambient().as_ref())),
    };
    let grantable = grantable(request);
    let granted = grant(wanted, grantable, &mut |set, refused, reason| {
        steps.warn(format!("process.capabilities.{set}: {reason}, ignored: {}", spell(refused)));
    });
    steps.every(Action::Capabilities(granted));
    Ok(())
}

/// What init may give to the process. In a user namespace other than ours it starts with everything.
fn grantable(request: &Request) -> u64 {
    match request.place(Namespace::User) {
        Place::Inherited => request.facts.permitted & request.facts.bounding,
        Place::New | Place::Joined(_) => request.facts.supported,
    }
}

/// The sets as far as the kernel takes them (capset(2), prctl(2) `PR_CAP_AMBIENT_RAISE`); the rest is reported.
fn grant(wanted: CapabilitySets, grantable: u64, refuse: &mut dyn FnMut(&str, u64, &str)) -> CapabilitySets {
    let mut within = |set: &str, wanted: u64, limit: u64, reason: &str| {
        if wanted & !limit != 0 {
            refuse(set, wanted & !limit, reason);
        }
        wanted & limit
    };
    let ours = "not ours to give";
    let bounding = within("bounding", wanted.bounding, grantable, ours);
    let permitted = within("permitted", wanted.permitted, grantable, ours);
    let effective = within("effective", wanted.effective & grantable, permitted, "not permitted");
    let inheritable =
        within("inheritable", wanted.inheritable & grantable, bounding, "not in the bounding set");
    let raisable = permitted & inheritable;
    let ambient =
        within("ambient", wanted.ambient & grantable, raisable, "not both permitted and inheritable");
    CapabilitySets { bounding, effective, permitted, inheritable, ambient }
}

fn mask(set: Option<&Capabilities>) -> u64 {
    set.into_iter().flatten().map(bit).sum()
}

fn bit(capability: &Capability) -> u64 {
    parse(&capability.to_string()).expect("the table holds every capability that the types have")
}

fn spell(mask: u64) -> String {
    let names = NAMES.iter().enumerate().filter(|(number, _)| mask & (1 << number) != 0);
    names.map(|(_, name)| *name).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_agrees_with_the_kernels_numbers() {
        for capability in caps::all() {
            assert_eq!(NAMES[usize::from(capability.index())], capability.to_string());
        }
        assert_eq!(NAMES.len(), caps::all().len());
    }

    #[test]
    fn every_capability_of_the_types_has_its_bit() {
        for name in NAMES {
            let capability: Capability = serde_json::from_value(serde_json::json!(name)).unwrap();
            assert_eq!(Some(bit(&capability)), parse(name));
        }
        assert!(is_known("sys_admin") && !is_known("CAP_FLY") && !is_known(""));
    }

    #[test]
    fn sets_shrink_to_what_the_kernel_would_take() {
        let wanted = CapabilitySets {
            bounding: 0b0111,
            permitted: 0b1111,
            effective: 0b10111,
            inheritable: 0b1011,
            ambient: 0b1111,
        };
        let mut refused = Vec::new();
        let granted = grant(wanted, 0b1110, &mut |set, mask, _| refused.push((set.to_string(), mask)));
        let expected = CapabilitySets {
            bounding: 0b0110,
            permitted: 0b1110,
            effective: 0b0110,
            inheritable: 0b0010,
            ambient: 0b0010,
        };
        assert_eq!(granted, expected);
        let expected = [("bounding", 0b1), ("permitted", 0b1), ("inheritable", 0b1000), ("ambient", 0b1100)];
        assert_eq!(refused, expected.map(|(set, mask)| (set.to_string(), mask)));
    }
}
