//! Readiness (sd_notify(3)): what a configuration needs so that the process can speak to a socket of ours.
//!
//! Runs outside. Who listens there, and what becomes of the words, is `host/notify.rs`.

use std::path::{Path, PathBuf};

use oci_spec::runtime::{Mount, Spec};

/// In the container's room, mounted into the container: a socket alone could not be bound again.
const DIRECTORY: &str = "notify";
const SOCKET: &str = "notify.sock";
const INSIDE: &str = "/run/notify";
const VARIABLE: &str = "NOTIFY_SOCKET=";

/// The directory on the host that the container sees.
pub fn directory(room: &Path) -> PathBuf {
    room.join(DIRECTORY)
}

pub fn socket(room: &Path) -> PathBuf {
    directory(room).join(SOCKET)
}

/// Have the process find a socket of ours; whether it will. A configuration that names one has a listener of its own,
/// as Podman's containers have conmon.
pub fn offer(spec: &mut Spec, room: &Path) -> bool {
    let Some(process) = spec.process_mut() else { return false };
    let environment = process.env_mut().get_or_insert_default();
    if environment.iter().any(|variable| variable.starts_with(VARIABLE)) {
        return false;
    }
    environment.push(format!("{VARIABLE}{INSIDE}/{SOCKET}"));
    let mut mount = Mount::default();
    mount.set_destination(INSIDE.into());
    mount.set_source(Some(directory(room)));
    mount.set_options(Some(["bind", "ro", "nosuid", "nodev", "noexec"].map(String::from).to_vec()));
    spec.mounts_mut().get_or_insert_default().push(mount);
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::bundle::parse;

    #[test]
    fn the_process_finds_a_socket_unless_it_has_one() {
        let text = |env: &str| {
            format!(r#"{{"ociVersion":"1.2.0","process":{{"cwd":"/","args":["a"],"env":[{env}]}}}}"#)
        };
        let (mut spec, _) = parse(text(r#""A=1""#).as_bytes()).unwrap();
        assert!(offer(&mut spec, Path::new("/run/corten/web")));
        let environment = spec.process().as_ref().unwrap().env().clone().unwrap();
        assert_eq!(environment, ["A=1", "NOTIFY_SOCKET=/run/notify/notify.sock"]);
        let mounts = spec.mounts().clone().unwrap_or_default();
        assert_eq!(mounts[0].source().as_deref(), Some(Path::new("/run/corten/web/notify")));

        let (mut spec, _) = parse(text(r#""NOTIFY_SOCKET=/run/notify/other""#).as_bytes()).unwrap();
        assert!(!offer(&mut spec, Path::new("/run/corten/web")));
        assert!(spec.mounts().iter().flatten().next().is_none());
    }
}
