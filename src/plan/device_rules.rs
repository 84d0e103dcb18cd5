//! Which devices a container may open and make: `linux.resources.devices`, reduced to a default and exceptions.
//!
//! Runs outside, before anything exists. Pure. The semantics are those of the kernel's v1 devices controller, on every
//! host, but that a wide rule takes narrower ones back: `host/cgroup/v1.rs` writes the result into its files,
//! `host/cgroup/device_bpf.rs` compiles it.

use std::fmt;

use anyhow::{Context, Result, bail};
use oci_spec::runtime::{LinuxDeviceCgroup, LinuxDeviceType};
use serde::Serialize;

/// What happens to a device: the default, unless an exception matches. Exceptions never repeat the default, so
/// their order means nothing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct DeviceRules {
    pub default: Verdict,
    pub exceptions: Vec<Exception>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    Allow,
    Deny,
}

/// Devices that are treated otherwise than the default; `None` is every number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Exception {
    pub class: DeviceClass,
    pub major: Option<u32>,
    pub minor: Option<u32>,
    pub access: Access,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum DeviceClass {
    Character,
    Block,
}

/// A set of `r`, `w` and `m` (mknod), in the kernel's bits (`BPF_DEVCG_ACC_*`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(into = "String")]
pub struct Access(u8);

impl Access {
    pub const MKNOD: Access = Access(1);
    pub const ALL: Access = Access(7);
    const LETTERS: [(char, u8); 3] = [('r', 2), ('w', 4), ('m', 1)];

    pub fn bits(self) -> u8 {
        self.0
    }

    fn parse(text: &str) -> Result<Access> {
        let mut bits = 0;
        for letter in text.chars() {
            match Access::LETTERS.iter().find(|(known, _)| *known == letter) {
                Some((_, bit)) => bits |= bit,
                None => bail!("{text:?} is not made of the letters r, w and m"),
            }
        }
        Ok(if bits == 0 { Access::ALL } else { Access(bits) })
    }
}

/// What every container may use, whatever its configuration says: it may make any node, and use the default
/// devices (config-linux.md), terminals, and tun.
const DEFAULT_DEVICES: [Exception; 11] = [
    Exception { class: DeviceClass::Character, major: None, minor: None, access: Access::MKNOD },
    Exception { class: DeviceClass::Block, major: None, minor: None, access: Access::MKNOD },
    character(1, Some(3)),
    character(1, Some(8)),
    character(1, Some(7)),
    character(5, Some(0)),
    character(1, Some(5)),
    character(1, Some(9)),
    character(136, None),
    character(5, Some(2)),
    character(10, Some(200)),
];

const fn character(major: u32, minor: Option<u32>) -> Exception {
    Exception { class: DeviceClass::Character, major: Some(major), minor, access: Access::ALL }
}

/// Apply the rules in order to a group that denies everything, then allow the default devices.
pub fn plan(rules: &[LinuxDeviceCgroup]) -> Result<DeviceRules> {
    let mut result = DeviceRules { default: Verdict::Deny, exceptions: Vec::new() };
    for (index, rule) in rules.iter().enumerate() {
        result.apply(rule, &format!("linux.resources.devices[{index}]"))?;
    }
    for device in DEFAULT_DEVICES {
        match result.default {
            Verdict::Deny => result.add(device),
            // Denied with a wildcard in a group that allows the rest: the configuration's word stands.
            Verdict::Allow => result.take(device, Exception::same_devices),
        }
    }
    result.minimise();
    Ok(result)
}

impl DeviceRules {
    /// Whether there is nothing to enforce.
    pub fn allow_everything(&self) -> bool {
        self.default == Verdict::Allow && self.exceptions.is_empty()
    }

    fn apply(&mut self, rule: &LinuxDeviceCgroup, place: &str) -> Result<()> {
        let verdict = if rule.allow() { Verdict::Allow } else { Verdict::Deny };
        let major = number(rule.major()).with_context(|| format!("{place}.major"))?;
        let minor = number(rule.minor()).with_context(|| format!("{place}.minor"))?;
        let access = Access::parse(rule.access().as_deref().unwrap_or_default())
            .with_context(|| format!("{place}.access"))?;
        let class = match rule.typ() {
            None | Some(LinuxDeviceType::A) => {
                if major.is_some() || minor.is_some() {
                    bail!(
                        "{place}.type: \"a\" is every device and takes no numbers: write a rule for \"b\" and one for \"c\""
                    );
                }
                if verdict == Verdict::Allow && access != Access::ALL {
                    bail!(
                        "{place}.access: \"a\" allows everything: write a rule for \"b\" and one for \"c\" to allow {access}"
                    );
                }
                self.default = verdict;
                self.exceptions.clear();
                return Ok(());
            }
            Some(LinuxDeviceType::C) => DeviceClass::Character,
            Some(LinuxDeviceType::B) => DeviceClass::Block,
            Some(other) => {
                bail!("{place}.type: {:?} is not one that can be controlled (a, b, c)", other.as_str())
            }
        };
        if verdict == Verdict::Allow && rule.access().as_deref().unwrap_or_default().is_empty() {
            bail!("{place}.access: missing: what is allowed is said in the letters r, w and m");
        }
        let exception = Exception { class, major, minor, access };
        if verdict == self.default {
            self.subtract(exception).with_context(|| place.to_string())
        } else {
            self.add(exception);
            Ok(())
        }
    }

    fn add(&mut self, exception: Exception) {
        match self.exceptions.iter_mut().find(|known| known.same_devices(&exception)) {
            Some(known) => known.access.0 |= exception.access.0,
            None => self.exceptions.push(exception),
        }
    }

    /// Return devices to the default. The v1 kernel silently ignores the removal of a part of a wildcard, which
    /// leaves access open that somebody believes closed; so that is an error, with v2 as well.
    fn subtract(&mut self, exception: Exception) -> Result<()> {
        let holds_a_part =
            |known: &&Exception| known.is_wider(&exception) && known.access.0 & exception.access.0 != 0;
        if let Some(wider) = self.exceptions.iter().find(holds_a_part) {
            bail!(
                "{exception} cannot be taken out of {wider}, an earlier rule: the kernel has no such exception"
            );
        }
        // The v1 kernel leaves the narrower ones, too; nobody who writes it believes so.
        self.take(exception, |known, wide| known.same_devices(wide) || wide.is_wider(known));
        Ok(())
    }

    /// Take access away from the exceptions that `concerns` is true of.
    fn take(&mut self, exception: Exception, concerns: fn(&Exception, &Exception) -> bool) {
        for known in &mut self.exceptions {
            if concerns(known, &exception) {
                known.access.0 &= !exception.access.0;
            }
        }
        self.exceptions.retain(|known| known.access.0 != 0);
    }

    /// Drop what a wider exception says already.
    fn minimise(&mut self) {
        let all = self.exceptions.clone();
        self.exceptions.retain(|one| {
            !all.iter().any(|other| other.is_wider(one) && one.access.0 & !other.access.0 == 0)
        });
    }
}

impl Exception {
    fn same_devices(&self, other: &Exception) -> bool {
        (self.class, self.major, self.minor) == (other.class, other.major, other.minor)
    }

    /// Whether this has all devices of `other` and more.
    fn is_wider(&self, other: &Exception) -> bool {
        self.class == other.class
            && !self.same_devices(other)
            && (self.major.is_none() || self.major == other.major)
            && (self.minor.is_none() || self.minor == other.minor)
    }
}

fn number(asked: Option<i64>) -> Result<Option<u32>> {
    match asked {
        None | Some(-1) => Ok(None),
        Some(number) => match u32::try_from(number) {
            Ok(number) => Ok(Some(number)),
            Err(_) => bail!("{number} is neither a device number nor -1 (all)"),
        },
    }
}

impl fmt::Display for Access {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        Access::LETTERS
            .iter()
            .filter(|(_, bit)| self.0 & bit != 0)
            .try_for_each(|(letter, _)| write!(out, "{letter}"))
    }
}

impl From<Access> for String {
    fn from(access: Access) -> String {
        access.to_string()
    }
}

/// The notation of `devices.allow` and `devices.deny`.
impl fmt::Display for Exception {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let class = match self.class {
            DeviceClass::Character => 'c',
            DeviceClass::Block => 'b',
        };
        let number = |number: Option<u32>| number.map_or("*".to_string(), |number| number.to_string());
        write!(out, "{class} {}:{} {}", number(self.major), number(self.minor), self.access)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(json: &str) -> Result<DeviceRules> {
        plan(&serde_json::from_str::<Vec<LinuxDeviceCgroup>>(json).unwrap())
    }

    fn printed(rules: &DeviceRules) -> Vec<String> {
        rules.exceptions.iter().map(Exception::to_string).collect()
    }

    const DEFAULTS: [&str; 11] = [
        "c *:* m",
        "b *:* m",
        "c 1:3 rwm",
        "c 1:8 rwm",
        "c 1:7 rwm",
        "c 5:0 rwm",
        "c 1:5 rwm",
        "c 1:9 rwm",
        "c 136:* rwm",
        "c 5:2 rwm",
        "c 10:200 rwm",
    ];

    #[test]
    fn a_container_without_rules_has_the_default_devices() {
        for none in ["[]", r#"[{"allow": false, "access": "rwm"}]"#] {
            let rules = rules(none).unwrap();
            assert_eq!(rules.default, Verdict::Deny);
            assert_eq!(printed(&rules), DEFAULTS);
        }
    }

    #[test]
    fn a_rule_for_all_devices_forgets_what_came_before() {
        let all = rules(
            r#"[{"allow": true, "type": "b", "major": 8, "access": "r"}, {"allow": true, "access": "rwm"}]"#,
        );
        assert!(all.unwrap().allow_everything());
    }

    #[test]
    fn what_is_allowed_can_be_denied_again() {
        let rules = rules(
            r#"[{"allow": false},
                {"allow": true, "type": "b", "major": 8, "minor": 0, "access": "rw"},
                {"allow": true, "type": "b", "major": 8, "minor": 16, "access": "r"},
                {"allow": false, "type": "b", "major": 8, "minor": 0, "access": "w"},
                {"allow": false, "type": "b", "major": 8, "minor": 16, "access": "rwm"}]"#,
        )
        .unwrap();
        assert_eq!(printed(&rules)[0], "b 8:0 r");
        assert_eq!(printed(&rules)[1..], DEFAULTS);
    }

    #[test]
    fn a_part_of_a_wildcard_cannot_be_denied() {
        let error = rules(
            r#"[{"allow": true, "type": "c", "major": 10, "access": "rw"},
                {"allow": false, "type": "c", "major": 10, "minor": 229, "access": "w"}]"#,
        )
        .unwrap_err();
        assert_eq!(
            format!("{error:#}"),
            "linux.resources.devices[1]: c 10:229 w cannot be taken out of c 10:* rw, an earlier rule: \
             the kernel has no such exception"
        );
    }

    #[test]
    fn what_a_wildcard_denies_in_an_open_group_stays_denied() {
        let rules = rules(
            r#"[{"allow": true}, {"allow": false, "type": "c", "major": 10, "access": "rwm"},
                {"allow": false, "type": "c", "major": 1, "minor": 3, "access": "rwm"}]"#,
        )
        .unwrap();
        assert_eq!((rules.default, printed(&rules)), (Verdict::Allow, vec!["c 10:* rwm".to_string()]));
    }

    #[test]
    fn a_wide_rule_takes_narrow_ones_back() {
        let denied = rules(
            r#"[{"allow": true, "type": "c", "major": 1, "minor": 11, "access": "rw"},
                {"allow": true, "type": "b", "major": 8, "access": "r"},
                {"allow": false, "type": "c", "access": "w"}]"#,
        )
        .unwrap();
        assert_eq!(printed(&denied)[..2], ["c 1:11 r", "b 8:* r"]);
        let allowed = rules(
            r#"[{"allow": true}, {"allow": false, "type": "b", "major": 8, "minor": 0},
                {"allow": false, "type": "c", "major": 1, "minor": 11}, {"allow": true, "type": "b", "access": "rwm"}]"#,
        )
        .unwrap();
        assert_eq!((allowed.default, printed(&allowed)), (Verdict::Allow, vec!["c 1:11 rwm".to_string()]));
    }

    #[test]
    fn narrow_exceptions_vanish_in_wide_ones() {
        let rules = rules(r#"[{"allow": true, "type": "c", "access": "rwm"}]"#).unwrap();
        assert_eq!(printed(&rules), ["c *:* rwm", "b *:* m"]);
    }

    #[test]
    fn wrong_rules_are_refused_with_their_place() {
        for (json, sentence) in [
            (r#"[{"allow": true, "type": "c", "access": "rx"}]"#, "linux.resources.devices[0].access: "),
            (r#"[{"allow": true, "type": "c", "major": -2}]"#, "linux.resources.devices[0].major: -2 is"),
            (r#"[{"allow": true, "type": "c", "minor": 4294967296}]"#, "linux.resources.devices[0].minor: "),
            (r#"[{"allow": true, "type": "p"}]"#, "linux.resources.devices[0].type: \"p\" is not"),
            (r#"[{}, {"allow": true, "type": "a", "major": 1}]"#, "linux.resources.devices[1].type: \"a\" "),
            (r#"[{"allow": true, "access": "rw"}]"#, "linux.resources.devices[0].access: \"a\" allows"),
            (r#"[{"allow": true, "type": "c", "access": ""}]"#, "linux.resources.devices[0].access: missing"),
            (r#"[{"allow": true, "type": "b", "major": 8}]"#, "linux.resources.devices[0].access: missing"),
        ] {
            let error = format!("{:#}", rules(json).unwrap_err());
            assert!(error.starts_with(sentence), "{error}");
        }
    }
}
