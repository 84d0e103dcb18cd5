//! What the container's own namespaces are told: their names, and kernel parameters.
//!
//! Runs outside. Refuses what would change the host (the rules are runc's, which engines rely on).

use anyhow::{Result, bail, ensure};

use super::namespaces::Place;
use super::request::{Request, c_string};
use super::steps::Steps;
use super::{Action, Namespace};

/// Parameters below `kernel.` that belong to an IPC namespace.
const IPC_PARAMETERS: &[&str] =
    &["msgmax", "msgmnb", "msgmni", "sem", "shm_rmid_forced", "shmall", "shmmax", "shmmni"];

/// The kernel's `__NEW_UTS_LEN`.
const LONGEST_NAME: usize = 64;

pub fn plan_names(request: &Request, steps: &mut Steps) -> Result<()> {
    let name = |name: &Option<String>, path: &str| {
        let name = name.as_deref().unwrap_or_default();
        if name.is_empty() {
            return Ok(None);
        }
        let own = request.place(Namespace::Uts) != Place::Inherited;
        ensure!(own, "{path}: needs a namespace of type uts");
        ensure!(name.len() <= LONGEST_NAME, "{path}: is longer than {LONGEST_NAME} bytes");
        c_string(name).map(Some)
    };
    if let Some(name) = name(request.spec.hostname(), "hostname")? {
        steps.birth(Action::Hostname { name });
    }
    if let Some(name) = name(request.spec.domainname(), "domainname")? {
        steps.birth(Action::Domainname { name });
    }
    Ok(())
}

pub fn plan(request: &Request, steps: &mut Steps) -> Result<()> {
    let sysctls = request.linux().and_then(|linux| linux.sysctl().as_ref());
    let mut sysctls: Vec<_> = sysctls.into_iter().flatten().collect();
    sysctls.sort();
    for (key, value) in sysctls {
        let path = path(key);
        let sound = path.split('/').all(|part| !["", ".", ".."].contains(&part));
        ensure!(sound, "linux.sysctl: {key:?} is not the name of a kernel parameter");
        check(request, key, &path)?;
        steps.birth(Action::Sysctl { path: c_string(path)?, value: c_string(value.as_str())? });
    }
    Ok(())
}

/// The path below `/proc/sys`. The first separator is the separator; the other one then stands for a
/// dot in a name (sysctl.d(5)).
pub fn path(key: &str) -> String {
    let swap = |letter: char| match letter {
        '.' => '/',
        '/' => '.',
        other => other,
    };
    match key.find(['.', '/']) {
        Some(first) if key[first..].starts_with('.') => key.chars().map(swap).collect(),
        _ => key.to_string(),
    }
}

/// Whose parameter it is, by its path; none for the host's.
pub fn namespace(path: &str) -> Option<Namespace> {
    match path.split_once('/')? {
        ("kernel", "hostname" | "domainname") => Some(Namespace::Uts),
        ("kernel", name) if IPC_PARAMETERS.contains(&name) => Some(Namespace::Ipc),
        ("fs", name) if name.starts_with("mqueue/") => Some(Namespace::Ipc),
        ("net", name) if !name.is_empty() => Some(Namespace::Network),
        ("user", name) if !name.is_empty() => Some(Namespace::User),
        _ => None,
    }
}

fn check(request: &Request, key: &str, path: &str) -> Result<()> {
    let Some(namespace) = namespace(path) else {
        bail!("linux.sysctl: {key} is not in a separate kernel namespace, it would change the host")
    };
    ensure!(path != "kernel/hostname", "linux.sysctl: {key} is set by the member \"hostname\"");
    if path == "kernel/domainname" {
        let named = request.spec.domainname().as_deref().is_some_and(|name| !name.is_empty());
        ensure!(!named, "linux.sysctl: {key} and the member \"domainname\" say the same thing");
    }
    let own = request.place(namespace) != Place::Inherited;
    ensure!(own, "linux.sysctl: {key} needs a namespace of type {}", namespace.name());
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::plan::testing::Given;

    #[test]
    fn parameters_of_own_namespaces_are_set_in_the_order_of_their_names() {
        let given = Given::new(json!({"linux": {
            "namespaces": [{"type": "ipc"}, {"type": "network", "path": "/run/netns/a"}, {"type": "uts"}],
            "sysctl": {"net.core.somaxconn": "1", "kernel.shmmax": "2", "fs.mqueue.msg_max": "3",
                "kernel.domainname": "d"},
        }}));
        let mut steps = Steps::new(given.facts.authority);
        plan(&given.request(), &mut steps).unwrap();
        let intents: Vec<String> = steps.finish().steps.iter().map(|step| step.action.intent()).collect();
        assert_eq!(
            intents,
            [
                "set sysctl fs/mqueue/msg_max to 3",
                "set sysctl kernel/domainname to d",
                "set sysctl kernel/shmmax to 2",
                "set sysctl net/core/somaxconn to 1"
            ]
        );
    }

    #[test]
    fn a_domain_name_is_given_in_one_place() {
        let given = Given::new(json!({"domainname": "a", "linux": {
            "namespaces": [{"type": "uts"}], "sysctl": {"kernel.domainname": "b"},
        }}));
        let refused = plan(&given.request(), &mut Steps::new(given.facts.authority)).unwrap_err();
        assert!(refused.to_string().ends_with("say the same thing"), "{refused}");
    }

    #[test]
    fn the_first_separator_decides_what_the_other_means() {
        assert_eq!(path("net.ipv4.ip_forward"), "net/ipv4/ip_forward");
        assert_eq!(path("net/ipv4/conf/eno2.100/rp_filter"), "net/ipv4/conf/eno2.100/rp_filter");
        assert_eq!(path("net.ipv4.conf.eno2/100.rp_filter"), "net/ipv4/conf/eno2.100/rp_filter");
        assert_eq!(path("kernel"), "kernel");
    }
}
