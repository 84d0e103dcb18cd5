//! Network devices that move into the container: which, and under which names.
//!
//! Runs outside. The parent moves them when the container's network namespace is there (`host/netdev.rs`).

use anyhow::{Result, bail, ensure};

use super::facts::Authority;
use super::namespaces::Place;
use super::request::{Request, c_string};
use super::steps::Steps;
use super::{Namespace, NetDevice};

/// IFNAMSIZ, less the NUL byte.
const LONGEST_NAME: usize = 15;

/// What the kernel replaces with the first number that makes a name unique.
const NUMBER: &str = "%d";

pub fn plan(request: &Request, steps: &mut Steps) -> Result<()> {
    let listed = request.linux().and_then(|linux| linux.net_devices().as_ref());
    let mut devices: Vec<_> = listed.into_iter().flatten().collect();
    if devices.is_empty() {
        return Ok(());
    }
    let privileged = request.facts.authority != Authority::User;
    ensure!(privileged, "linux.netDevices: only root may take devices from the host");
    let own = request.place(Namespace::Network) != Place::Inherited;
    ensure!(own, "linux.netDevices: need a namespace of type network");
    devices.sort_by_key(|(name, _)| *name);
    let mut moved: Vec<NetDevice> = Vec::with_capacity(devices.len());
    for (host, device) in devices {
        let place = format!("linux.netDevices.{host}");
        check_name(host, &place)?;
        ensure!(!host.contains('%'), "{place}: a pattern is not the name of a device");
        let inside = device.name().as_deref().filter(|name| !name.is_empty()).unwrap_or(host);
        check_name(inside, &format!("{place}.name"))?;
        let device = NetDevice { host: c_string(host.as_str())?, inside: c_string(inside)? };
        if let Some(other) = moved.iter().find(|other| other.inside == device.inside && !device.is_pattern())
        {
            bail!("{place}.name: {inside:?} is already the name of {}", other.host.to_string_lossy());
        }
        moved.push(device);
    }
    steps.outside.net_devices = moved;
    Ok(())
}

/// As the kernel's dev_valid_name(), and the one device that never leaves its namespace.
fn check_name(name: &str, place: &str) -> Result<()> {
    let longest = LONGEST_NAME;
    ensure!(
        !name.is_empty() && name.len() <= longest,
        "{place}: {name:?} does not have 1 to {longest} bytes"
    );
    let plain = |letter: char| letter != '/' && letter != ':' && !letter.is_ascii_whitespace();
    let valid = name.chars().all(plain) && name != "." && name != "..";
    let number = name.matches('%').count() == name.matches(NUMBER).count() && name.matches('%').count() <= 1;
    ensure!(valid && number, "{place}: {name:?} is not a name for a network device");
    ensure!(name != "lo", "{place}: every network namespace has a loopback device of its own");
    Ok(())
}

impl NetDevice {
    /// Whether the kernel chooses the number in the name.
    pub fn is_pattern(&self) -> bool {
        self.inside.to_bytes().contains(&b'%')
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::plan::testing::Given;

    fn given(devices: Value) -> Given {
        Given::new(json!({"linux": {"namespaces": [{"type": "network"}], "netDevices": devices}}))
    }

    fn planned(given: &Given) -> Result<Vec<(String, String)>> {
        let mut steps = Steps::new(given.facts.authority);
        plan(&given.request(), &mut steps)?;
        let text = |name: &std::ffi::CStr| name.to_str().unwrap().to_string();
        Ok(steps.outside.net_devices.iter().map(|one| (text(&one.host), text(&one.inside))).collect())
    }

    fn refusal(devices: Value) -> String {
        planned(&given(devices)).unwrap_err().to_string()
    }

    #[test]
    fn devices_keep_their_names_unless_they_get_new_ones() {
        let devices =
            json!({"eth1": {"name": "net%d"}, "eth0": {}, "eth2": {"name": ""}, "eth3": {"name": "net%d"}});
        let names = planned(&given(devices)).unwrap();
        let names: Vec<_> = names.iter().map(|(host, inside)| (host.as_str(), inside.as_str())).collect();
        assert_eq!(names, [("eth0", "eth0"), ("eth1", "net%d"), ("eth2", "eth2"), ("eth3", "net%d")]);
    }

    #[test]
    fn names_are_what_the_kernel_takes_for_one() {
        for bad in ["", "a/b", "a:b", "a b", ".", "..", "sixteen-letters-", "a%", "%s", "%d%d"] {
            let place = format!("linux.netDevices.{bad}: ");
            assert!(refusal(json!({bad: {}})).starts_with(&place), "{bad}");
            if !bad.is_empty() {
                assert!(refusal(json!({"eth0": {"name": bad}})).starts_with("linux.netDevices.eth0.name: "));
            }
        }
        assert!(refusal(json!({"eth%d": {}})).ends_with("a pattern is not the name of a device"));
        assert!(refusal(json!({"lo": {}})).contains("loopback"));
        assert_eq!(
            refusal(json!({"eth0": {"name": "net"}, "net": {}})),
            "linux.netDevices.net.name: \"net\" is already the name of eth0"
        );
    }

    #[test]
    fn only_root_moves_devices_and_never_within_the_hosts_namespace() {
        let devices = json!({"eth0": {}});
        let host = Given::new(json!({"linux": {"netDevices": devices}}));
        assert!(planned(&host).unwrap_err().to_string().contains("need a namespace of type network"));
        let user = given(devices).run_by(Authority::User);
        assert!(planned(&user).unwrap_err().to_string().contains("only root"));
    }
}
