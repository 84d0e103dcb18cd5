//! New filesystems: what fsconfig(2) is told before one is mounted.
//!
//! Runs outside. Knows the limits of the new mount API, and which kinds of filesystem differ from the others.

use std::ffi::CString;
use std::path::Path;

use anyhow::{Result, bail, ensure};

use super::facts::Authority;
use super::mount_options::{Data, LONGEST_VALUE, MountOptions};
use super::request::{Request, c_string};
use super::{IdMapping, Parameter, idmap};

/// Kinds of which the kernel has one instance for many mounts: a flag of their superblock would be every mount's.
/// One mount's attributes are enough.
const SHARED: &[&str] = &[
    "binfmt_misc",
    "bpf",
    "cgroup",
    "cgroup2",
    "configfs",
    "debugfs",
    "devpts",
    "devtmpfs",
    "efivarfs",
    "fusectl",
    "hugetlbfs",
    "mqueue",
    "proc",
    "pstore",
    "ramfs",
    "resctrl",
    "securityfs",
    "selinuxfs",
    "sysfs",
    "tracefs",
];

/// Kinds that stay writable while the root is assembled; the mount is made read-only at last.
const FILLED_LATER: &[&str] = &["tmpfs"];

/// Kinds that take no SELinux label from a mount option.
const UNLABELLED: &[&str] = &["cgroup", "cgroup2", "mqueue", "proc", "sysfs"];

/// crun's annotation for the option that carries `linux.mountLabel`.
pub const CONTEXT_TYPE: &str = "run.oci.mount_context_type";
const CONTEXT_TYPES: &[&str] = &["context", "fscontext", "defcontext", "rootcontext"];

/// Ids that a filesystem is given must mean something in the container's user namespace.
#[derive(Clone, Copy)]
pub struct Maps<'a> {
    pub uids: &'a [IdMapping],
    pub gids: &'a [IdMapping],
}

/// All parameters of a new filesystem of this kind, for the mount at `place`.
pub fn parameters(
    request: &Request,
    kind: &str,
    source: Option<&Path>,
    options: &MountOptions,
    maps: Maps,
    place: &str,
) -> Result<Vec<Parameter>> {
    let mut parameters = Vec::new();
    if let Some(source) = source.filter(|source| !source.as_os_str().is_empty()) {
        let length = source.as_os_str().len();
        ensure!(length <= LONGEST_VALUE, "{place}.source: {}", too_long(length));
        parameters.push(text("source", source.as_os_str().as_encoded_bytes())?);
    }
    if !SHARED.contains(&kind) {
        parameters.extend(options.superblock.iter().cloned());
        let read_only = options.attributes.set & libc::MOUNT_ATTR_RDONLY != 0;
        if read_only && !FILLED_LATER.contains(&kind) {
            parameters.push(Parameter::Flag(c"ro".to_owned()));
        }
    }
    for data in &options.data {
        if let Err(refusal) = check_id(data, maps, place) {
            // Every engine's devpts has the group of terminals, which a user who maps itself alone does not.
            ensure!(kind == "devpts" && request.facts.authority == Authority::User, refusal);
            continue;
        }
        parameters.extend(data_parameters(kind, data, place)?);
    }
    parameters.extend(label(request, kind, options)?);
    Ok(parameters)
}

/// Whether the filesystem is told this.
pub fn has(data: &[Data], name: &str) -> bool {
    data.iter().any(|data| match &data.parameter {
        Parameter::Flag(key) | Parameter::Text(key, _) => key.as_bytes() == name.as_bytes(),
    })
}

fn text(key: &str, value: impl Into<Vec<u8>>) -> Result<Parameter> {
    Ok(Parameter::Text(c_string(key)?, c_string(value)?))
}

fn too_long(length: usize) -> String {
    format!("{length} bytes, and the kernel takes {LONGEST_VALUE} at most")
}

/// What fsconfig(2) takes for one word of filesystem data.
fn data_parameters(kind: &str, data: &Data, place: &str) -> Result<Vec<Parameter>> {
    let Parameter::Text(key, value) = &data.parameter else {
        return Ok(vec![data.parameter.clone()]);
    };
    if value.as_bytes().len() <= LONGEST_VALUE {
        return Ok(vec![data.parameter.clone()]);
    }
    // Since Linux 6.8 overlay takes its layers one by one, which is the only way to name many of them.
    if (kind, key.as_bytes()) == ("overlay", b"lowerdir") {
        if let Some(layers) = overlay_layers(value)? {
            return Ok(layers);
        }
        bail!("{place}.options[{}]: a layer of more than {LONGEST_VALUE} bytes", data.option);
    }
    bail!("{place}.options[{}]: {}", data.option, too_long(value.as_bytes().len()))
}

/// `a:b::c` as one `lowerdir+` or, after a double colon, `datadir+` for each layer; `None` if one is too long.
fn overlay_layers(list: &CString) -> Result<Option<Vec<Parameter>>> {
    let mut layers = Vec::new();
    let mut key = "lowerdir+";
    for layer in unescaped_parts(list.as_bytes(), b':') {
        if layer.is_empty() {
            key = "datadir+";
            continue;
        }
        if layer.len() > LONGEST_VALUE {
            return Ok(None);
        }
        layers.push(text(key, layer)?);
    }
    Ok(Some(layers))
}

/// The parts between separators, with backslashes resolved.
fn unescaped_parts(list: &[u8], separator: u8) -> Vec<Vec<u8>> {
    let mut parts = vec![Vec::new()];
    let mut bytes = list.iter().copied();
    while let Some(byte) = bytes.next() {
        if byte == separator {
            parts.push(Vec::new());
        } else if let Some(part) = parts.last_mut() {
            part.push(if byte == b'\\' { bytes.next().unwrap_or(byte) } else { byte });
        }
    }
    parts
}

/// The kernel's answer to an id without meaning is EINVAL, which nobody understands.
fn check_id(data: &Data, maps: Maps, place: &str) -> Result<()> {
    let Parameter::Text(key, value) = &data.parameter else { return Ok(()) };
    let map = match key.as_bytes() {
        b"uid" => maps.uids,
        b"gid" => maps.gids,
        _ => return Ok(()),
    };
    let id = value.to_str().ok().and_then(|value| value.parse().ok());
    if let Some(id) = id.filter(|_| !map.is_empty()) {
        ensure!(
            idmap::outside(map, id).is_some(),
            "{place}.options[{}]: {}={id} is not mapped in the user namespace",
            data.option,
            key.to_string_lossy()
        );
    }
    Ok(())
}

/// `linux.mountLabel`, for kinds that take one, unless the options name one themselves.
fn label(request: &Request, kind: &str, options: &MountOptions) -> Result<Option<Parameter>> {
    let Some(label) = mount_label(request).filter(|_| request.facts.selinux) else { return Ok(None) };
    let annotations = request.spec.annotations().as_ref();
    let name = annotations.and_then(|all| all.get(CONTEXT_TYPE)).map_or("context", String::as_str);
    ensure!(
        CONTEXT_TYPES.contains(&name),
        "annotations.{CONTEXT_TYPE}: {name:?} is none of {}",
        CONTEXT_TYPES.join(", ")
    );
    let named = CONTEXT_TYPES.iter().any(|name| has(&options.data, name));
    if named || UNLABELLED.contains(&kind) {
        return Ok(None);
    }
    ensure!(label.len() <= LONGEST_VALUE, "linux.mountLabel: {}", too_long(label.len()));
    text(name, label).map(Some)
}

pub fn mount_label<'a>(request: &Request<'a>) -> Option<&'a str> {
    let label = request.linux()?.mount_label().as_deref()?;
    (!label.is_empty()).then_some(label)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::testing::Given;
    use super::*;

    const NO_MAPS: Maps = Maps { uids: &[], gids: &[] };

    fn options(list: &[&str]) -> MountOptions {
        let list: Vec<String> = list.iter().map(|option| option.to_string()).collect();
        MountOptions::parse(&list, "mounts[0]").unwrap()
    }

    fn given() -> Given {
        Given::new(json!({}))
    }

    fn told(given: &Given, kind: &str, list: &[&str], maps: Maps) -> Result<Vec<String>> {
        let all = parameters(&given.request(), kind, None, &options(list), maps, "mounts[0]")?;
        Ok(all
            .iter()
            .map(|parameter| match parameter {
                Parameter::Flag(key) => key.to_string_lossy().into_owned(),
                Parameter::Text(key, value) => {
                    format!("{}={}", key.to_string_lossy(), value.to_string_lossy())
                }
            })
            .collect())
    }

    fn plainly(kind: &str, list: &[&str]) -> Vec<String> {
        told(&given(), kind, list, NO_MAPS).unwrap()
    }

    fn refusal(kind: &str, list: &[&str], maps: Maps) -> String {
        told(&given(), kind, list, maps).unwrap_err().to_string()
    }

    #[test]
    fn a_private_superblock_is_read_only_and_takes_flags() {
        assert_eq!(plainly("ext4", &["ro", "sync", "data=journal"]), ["sync", "ro", "data=journal"]);
        assert_eq!(plainly("ext4", &["ro", "rw"]), [""; 0]);
    }

    #[test]
    fn a_shared_superblock_keeps_its_flags() {
        assert_eq!(plainly("sysfs", &["ro", "nosuid", "sync"]), [""; 0]);
        assert_eq!(plainly("tmpfs", &["ro", "size=64k"]), ["size=64k"]);
    }

    #[test]
    fn an_empty_source_is_none() {
        let source = |source| {
            parameters(
                &given().request(),
                "tmpfs",
                Some(Path::new(source)),
                &options(&[]),
                NO_MAPS,
                "mounts[0]",
            )
            .unwrap()
        };
        assert_eq!(source("shm"), [text("source", "shm").unwrap()]);
        assert_eq!(source(""), []);
    }

    #[test]
    fn short_overlay_layers_stay_one_value() {
        assert_eq!(plainly("overlay", &["lowerdir=/a:/b"]), ["lowerdir=/a:/b"]);
    }

    #[test]
    fn long_overlay_layers_are_passed_one_by_one() {
        let long = "x".repeat(200);
        let option = format!("lowerdir=/{long}:/with\\:colon::/data{long}");
        assert_eq!(
            plainly("overlay", &[&option, "upperdir=/u"]),
            [
                format!("lowerdir+=/{long}"),
                "lowerdir+=/with:colon".to_string(),
                format!("datadir+=/data{long}"),
                "upperdir=/u".to_string()
            ]
        );
    }

    #[test]
    fn values_too_long_for_the_kernel_are_refused_by_place() {
        let long = "x".repeat(256);
        assert_eq!(
            refusal("9p", &["ro", &format!("trans={long}")], NO_MAPS),
            "mounts[0].options[1]: 256 bytes, and the kernel takes 255 at most"
        );
        assert_eq!(
            refusal("overlay", &[&format!("lowerdir=/a:{long}")], NO_MAPS),
            "mounts[0].options[0]: a layer of more than 255 bytes"
        );
    }

    #[test]
    fn ids_must_be_mapped_where_there_is_a_user_namespace() {
        let map = [IdMapping { inside: 0, outside: 1000, count: 1 }];
        let maps = Maps { uids: &map, gids: &map };
        assert_eq!(
            refusal("devpts", &["newinstance", "gid=5"], maps),
            "mounts[0].options[1]: gid=5 is not mapped in the user namespace"
        );
        assert_eq!(told(&given(), "devpts", &["gid=0"], maps).unwrap(), ["gid=0"]);
        let user = given().run_by(Authority::User);
        assert_eq!(told(&user, "devpts", &["gid=5", "mode=620"], maps).unwrap(), ["mode=620"]);
        assert_eq!(plainly("devpts", &["gid=5"]), ["gid=5"]);
    }

    fn labelled(annotations: serde_json::Value) -> Given {
        let mut given = Given::new(
            json!({"linux": {"mountLabel": "system_u:object_r:t:s0:c1,c2"}, "annotations": annotations}),
        );
        given.facts.selinux = true;
        given
    }

    #[test]
    fn a_mount_label_goes_to_filesystems_that_take_one() {
        let given = labelled(json!({}));
        let label = "context=system_u:object_r:t:s0:c1,c2";
        assert_eq!(told(&given, "tmpfs", &[], NO_MAPS).unwrap(), [label]);
        assert_eq!(told(&given, "proc", &[], NO_MAPS).unwrap(), [""; 0]);
        assert_eq!(told(&given, "tmpfs", &["context=own"], NO_MAPS).unwrap(), ["context=own"]);
    }

    #[test]
    fn an_annotation_chooses_the_kind_of_label() {
        let root = labelled(json!({CONTEXT_TYPE: "rootcontext"}));
        assert_eq!(told(&root, "tmpfs", &[], NO_MAPS).unwrap(), ["rootcontext=system_u:object_r:t:s0:c1,c2"]);
        let wrong = told(&labelled(json!({CONTEXT_TYPE: "size"})), "tmpfs", &[], NO_MAPS).unwrap_err();
        assert!(wrong.to_string().contains("\"size\" is none of context"), "{wrong}");
    }
}
