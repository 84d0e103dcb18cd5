//! Devices: the nodes and links that every container has in `/dev`, and those that its configuration adds.
//!
//! Runs outside. What a device's group lets through is `limits.rs`'s business, not this file's.

use std::ffi::{CStr, CString};
use std::path::Path;

use anyhow::{Result, bail, ensure};
use oci_spec::runtime::{LinuxDevice, LinuxDeviceType};

use super::mounts::{binds_dev, clean};
use super::request::{Request, c_path};
use super::steps::Steps;
use super::{Action, DeviceKind, Mount, MountWhat};

/// Devices that the specification gives to every container: path, major, minor; all are for everybody.
const DEFAULT: &[(&CStr, u32, u32)] = &[
    (c"/dev/null", 1, 3),
    (c"/dev/zero", 1, 5),
    (c"/dev/full", 1, 7),
    (c"/dev/random", 1, 8),
    (c"/dev/urandom", 1, 9),
    (c"/dev/tty", 5, 0),
];

const EVERYBODY: u32 = 0o666;

/// Links, and whether each makes room for itself.
const LINKS: &[(&CStr, &CStr, bool)] = &[
    // The container's own devpts has the terminals' master, not the host's.
    (PTMX, c"pts/ptmx", true),
    (c"/dev/fd", c"/proc/self/fd", false),
    (c"/dev/stdin", c"/proc/self/fd/0", false),
    (c"/dev/stdout", c"/proc/self/fd/1", false),
    (c"/dev/stderr", c"/proc/self/fd/2", false),
    (c"/dev/core", c"/proc/kcore", false),
];

const PTMX: &CStr = c"/dev/ptmx";

/// The kernel's own limits for the two halves of a device number.
const LARGEST_MAJOR: i64 = (1 << 12) - 1;
const LARGEST_MINOR: i64 = (1 << 20) - 1;

struct Device {
    place: Option<String>,
    path: CString,
    kind: DeviceKind,
    major: u32,
    minor: u32,
    mode: u32,
    uid: u32,
    gid: u32,
}

pub fn plan(request: &Request, steps: &mut Steps) -> Result<()> {
    let configured = configured(request)?;
    if binds_dev(request) {
        return Ok(());
    }
    let overridden = |path: &CStr| configured.iter().any(|device| device.path.as_c_str() == path);
    let mut devices: Vec<Device> =
        DEFAULT.iter().filter(|(path, ..)| !overridden(path)).map(|&default| standard(default)).collect();
    devices.extend(configured);
    for device in devices {
        // Engines list the host's for a privileged container; the link takes its place.
        if device.path.as_c_str() != PTMX {
            add(device, request.in_user_namespace(), steps);
        }
    }
    for &(path, to, replace) in LINKS {
        steps.birth(Action::Symlink { inside: path.to_owned(), to: to.to_owned(), replace });
    }
    Ok(())
}

fn standard((path, major, minor): (&CStr, u32, u32)) -> Device {
    let kind = DeviceKind::Character;
    Device { place: None, path: path.to_owned(), kind, major, minor, mode: EVERYBODY, uid: 0, gid: 0 }
}

fn configured(request: &Request) -> Result<Vec<Device>> {
    let listed = request.linux().and_then(|linux| linux.devices().as_deref()).unwrap_or_default();
    listed
        .iter()
        .enumerate()
        .map(|(index, device)| parse(device, format!("linux.devices[{index}]")))
        .collect()
}

fn parse(device: &LinuxDevice, place: String) -> Result<Device> {
    let shown = device.path().display();
    ensure!(device.path().is_absolute(), "{place}.path: \"{shown}\" is not absolute");
    let path = clean(device.path());
    ensure!(path != "/", "{place}.path: the root is no device");
    let kind = match device.typ() {
        LinuxDeviceType::C | LinuxDeviceType::U => DeviceKind::Character,
        LinuxDeviceType::B => DeviceKind::Block,
        LinuxDeviceType::P => DeviceKind::Fifo,
        LinuxDeviceType::A => bail!("{place}.type: \"a\" is for rules of access, not for a device"),
    };
    let number = |name: &str, number: i64, largest: i64| match number {
        _ if kind == DeviceKind::Fifo => Ok(0),
        0.. if number <= largest => Ok(number as u32),
        _ => bail!("{place}.{name}: {number} is not between 0 and {largest}"),
    };
    for (name, id) in [("uid", device.uid()), ("gid", device.gid())] {
        ensure!(id != Some(u32::MAX), "{place}.{name}: {} is no id", u32::MAX);
    }
    Ok(Device {
        path: c_path(Path::new(&path), format_args!("{place}.path"))?,
        kind,
        major: number("major", device.major(), LARGEST_MAJOR)?,
        minor: number("minor", device.minor(), LARGEST_MINOR)?,
        // Docker passes the type along, as in 0o20666.
        mode: device.file_mode().unwrap_or(EVERYBODY) & !libc::S_IFMT,
        uid: device.uid().unwrap_or(0),
        gid: device.gid().unwrap_or(0),
        place: Some(place),
    })
}

/// A node; in a user namespace, where nobody can make one that works, the host's of the same path.
fn add(device: Device, bound: bool, steps: &mut Steps) {
    let Device { place, path: inside, kind, major, minor, mode, uid, gid } = device;
    if bound && kind != DeviceKind::Fifo {
        let asked = place.as_deref().unwrap_or("linux.devices");
        let slot = steps.tree(asked, inside.clone(), false, true, None);
        let mount = Mount::new(inside, MountWhat::Device { slot, kind, major, minor });
        steps.birth(Action::Mount(Box::new(Mount { place, ..mount })));
    } else {
        steps.birth(Action::Device { place, inside, kind, major, minor, mode, uid, gid });
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::super::facts::Authority;
    use super::super::testing::Given;
    use super::super::{Open, Step};
    use super::*;

    fn planned(given: &Given) -> Result<Steps> {
        let mut steps = Steps::new(given.facts.authority);
        plan(&given.request(), &mut steps)?;
        Ok(steps)
    }

    fn with_device(device: Value) -> Result<Steps> {
        planned(&Given::new(json!({"linux": {"devices": [device]}})))
    }

    fn refusal(device: Value) -> String {
        with_device(device).unwrap_err().to_string()
    }

    fn printed(steps: &[Step]) -> Vec<String> {
        steps
            .iter()
            .map(|step| match &step.action {
                Action::Device { inside, kind, major, minor, mode, uid, gid, .. } => {
                    format!("{} {kind:?} {major}:{minor} {mode:o} {uid}:{gid}", inside.to_string_lossy())
                }
                Action::Symlink { inside, to, replace } => {
                    let arrow = if *replace { "=>" } else { "->" };
                    format!("{} {arrow} {}", inside.to_string_lossy(), to.to_string_lossy())
                }
                Action::Mount(mount) => format!("bind {}", mount.inside.to_string_lossy()),
                other => format!("{other:?}"),
            })
            .collect()
    }

    #[test]
    fn every_container_has_the_default_devices_and_links() {
        let steps = planned(&Given::new(json!({}))).unwrap();
        assert_eq!(
            printed(steps.listed()),
            [
                "/dev/null Character 1:3 666 0:0",
                "/dev/zero Character 1:5 666 0:0",
                "/dev/full Character 1:7 666 0:0",
                "/dev/random Character 1:8 666 0:0",
                "/dev/urandom Character 1:9 666 0:0",
                "/dev/tty Character 5:0 666 0:0",
                "/dev/ptmx => pts/ptmx",
                "/dev/fd -> /proc/self/fd",
                "/dev/stdin -> /proc/self/fd/0",
                "/dev/stdout -> /proc/self/fd/1",
                "/dev/stderr -> /proc/self/fd/2",
                "/dev/core -> /proc/kcore",
            ]
        );
    }

    #[test]
    fn a_configured_device_overrides_a_default_one() {
        let null =
            json!({"path": "/dev//null", "type": "c", "major": 1, "minor": 3, "fileMode": 0o600, "gid": 7});
        let printed = printed(with_device(null).unwrap().listed());
        let nulls: Vec<&String> = printed.iter().filter(|line| line.starts_with("/dev/null ")).collect();
        assert_eq!(nulls, ["/dev/null Character 1:3 600 0:7"]);
    }

    #[test]
    fn devices_of_every_type_are_made() {
        let device = |typ: &str| {
            let device =
                json!({"path": "/opt/x", "type": typ, "major": 10, "minor": 229, "fileMode": 0o20640});
            printed(with_device(device).unwrap().listed()).remove(6)
        };
        assert_eq!(device("c"), "/opt/x Character 10:229 640 0:0");
        assert_eq!(device("u"), "/opt/x Character 10:229 640 0:0");
        assert_eq!(device("b"), "/opt/x Block 10:229 640 0:0");
        assert_eq!(device("p"), "/opt/x Fifo 0:0 640 0:0");
    }

    #[test]
    fn the_hosts_ptmx_gives_way_to_the_link() {
        let ptmx = json!({"path": "/dev/ptmx", "type": "c", "major": 5, "minor": 2});
        let printed = printed(with_device(ptmx).unwrap().listed());
        assert_eq!(printed.iter().filter(|line| line.starts_with("/dev/ptmx")).count(), 1);
    }

    #[test]
    fn a_user_namespace_gets_the_hosts_nodes() {
        let user = json!({"linux": {
            "namespaces": [{"type": "user"}],
            "devices": [{"path": "/dev/fuse", "type": "c", "major": 10, "minor": 229},
                        {"path": "/run/pipe", "type": "p"}],
        }});
        let steps = planned(&Given::new(user)).unwrap();
        let printed = printed(steps.listed());
        assert_eq!(printed[0], "bind /dev/null");
        assert_eq!(printed[6], "bind /dev/fuse");
        assert_eq!(printed[7], "/run/pipe Fifo 0:0 666 0:0");
        let [(_, Open::Tree { source, recursive: false, .. }), ..] = steps.opened() else {
            panic!("{:?}", steps.opened());
        };
        assert_eq!(source.as_c_str(), c"/dev/null");
    }

    #[test]
    fn an_unprivileged_user_opens_the_hosts_nodes_inside() {
        let steps = planned(&Given::new(json!({})).run_by(Authority::User)).unwrap();
        assert!(steps.opened().is_empty());
        assert_eq!(steps.opened_inside().len(), DEFAULT.len());
    }

    #[test]
    fn a_dev_that_is_bound_is_left_alone() {
        let given = Given::new(json!({
            "mounts": [{"destination": "/dev/", "source": "/dev", "options": ["rbind"]}],
        }));
        assert!(planned(&given).unwrap().listed().is_empty());
    }

    #[test]
    fn impossible_devices_are_refused_by_place() {
        assert_eq!(
            refusal(json!({"path": "dev/x", "type": "c", "major": 1, "minor": 3})),
            "linux.devices[0].path: \"dev/x\" is not absolute"
        );
        assert_eq!(
            refusal(json!({"path": "/dev/x", "type": "a", "major": 1, "minor": 3})),
            "linux.devices[0].type: \"a\" is for rules of access, not for a device"
        );
        assert_eq!(
            refusal(json!({"path": "/dev/x", "type": "c", "major": -1, "minor": 0})),
            "linux.devices[0].major: -1 is not between 0 and 4095"
        );
        assert_eq!(
            refusal(json!({"path": "/dev/x", "type": "b", "major": 8, "minor": 1 << 20})),
            "linux.devices[0].minor: 1048576 is not between 0 and 1048575"
        );
        assert_eq!(
            refusal(json!({"path": "/..", "type": "p"})),
            "linux.devices[0].path: the root is no device"
        );
    }
}
