//! One more process in a running container: what `exec` asks for, on top of what the container's own
//! process has.
//!
//! Runs outside. Its steps are those of every process, in the order that `steps.rs` gives both.

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use oci_spec::runtime::{Capabilities, LinuxCapabilities, Process};

use super::capabilities;

/// What the command line of `exec` says about the process.
#[derive(Clone, Debug, Default)]
pub struct Wishes {
    pub arguments: Vec<String>,
    pub environment: Vec<String>,
    pub cwd: Option<PathBuf>,
    /// A user, and a group if one is named.
    pub user: Option<(u32, Option<u32>)>,
    pub additional_gids: Vec<u32>,
    pub capabilities: Vec<String>,
    pub apparmor_profile: Option<String>,
    pub selinux_label: Option<String>,
    pub terminal: bool,
    pub no_new_privileges: bool,
}

/// The process that `exec` is to run: the container's own, changed as wished.
pub fn process(container: &Process, wishes: &Wishes) -> Result<Process> {
    ensure!(!wishes.arguments.is_empty(), "no program is named");
    let mut process = container.clone();
    process.set_args(Some(wishes.arguments.clone()));
    process.set_terminal(Some(wishes.terminal));
    process.set_console_size(None);
    process.env_mut().get_or_insert_default().extend(wishes.environment.iter().cloned());
    if let Some(cwd) = &wishes.cwd {
        process.set_cwd(cwd.clone());
    }
    if let Some((uid, gid)) = wishes.user {
        process.user_mut().set_uid(uid);
        if let Some(gid) = gid {
            process.user_mut().set_gid(gid);
        }
    }
    if !wishes.additional_gids.is_empty() {
        let groups = process.user_mut().additional_gids_mut().get_or_insert_default();
        groups.extend(&wishes.additional_gids);
    }
    if let Some(profile) = &wishes.apparmor_profile {
        process.set_apparmor_profile(Some(profile.clone()));
    }
    if let Some(label) = &wishes.selinux_label {
        process.set_selinux_label(Some(label.clone()));
    }
    if wishes.no_new_privileges {
        process.set_no_new_privileges(Some(true));
    }
    if let Some(sets) = grown(process.capabilities().as_ref(), &wishes.capabilities)? {
        process.set_capabilities(Some(sets));
    }
    Ok(process)
}

/// The container's sets with `more` in them, and nothing to inherit (CVE-2022-29162): a capability must not
/// outlive the process that it was given to. Nothing is ambient then either, which takes inheriting.
fn grown(sets: Option<&LinuxCapabilities>, more: &[String]) -> Result<Option<LinuxCapabilities>> {
    if sets.is_none() && more.is_empty() {
        return Ok(None);
    }
    let mut parsed = Capabilities::new();
    for name in more {
        let known = capabilities::is_known(name);
        ensure!(known, "--cap: {name:?} is not a capability that corten knows");
        parsed.insert(serde_json::from_value(name.as_str().into()).context("--cap")?);
    }
    let with = |set: Option<&Capabilities>| Some(set.into_iter().flatten().chain(&parsed).copied().collect());
    let mut grown = LinuxCapabilities::default();
    grown.set_bounding(with(sets.and_then(|sets| sets.bounding().as_ref())));
    grown.set_effective(with(sets.and_then(|sets| sets.effective().as_ref())));
    grown.set_permitted(with(sets.and_then(|sets| sets.permitted().as_ref())));
    grown.set_inheritable(None);
    grown.set_ambient(None);
    Ok(Some(grown))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::bundle::parse_process;

    fn container() -> Process {
        let text = br#"{"cwd":"/srv","args":["httpd"],"env":["A=1"],"terminal":true,"user":{"uid":7,"gid":8},
            "capabilities":{"bounding":["CAP_KILL"],"inheritable":["CAP_KILL"],"ambient":["CAP_KILL"]}}"#;
        parse_process(text).unwrap().0
    }

    #[test]
    fn a_guest_is_the_containers_process_but_for_its_wishes() {
        let wishes = Wishes {
            arguments: vec!["ls".into()],
            environment: vec!["B=2".into()],
            user: Some((1, None)),
            ..Wishes::default()
        };
        let process = process(&container(), &wishes).unwrap();
        assert_eq!(process.args().as_deref().unwrap(), ["ls"]);
        assert_eq!(process.env().as_deref().unwrap(), ["A=1", "B=2"]);
        assert_eq!(process.terminal(), Some(false));
        assert_eq!((process.user().uid(), process.user().gid()), (1, 8));
        assert_eq!(process.cwd().to_str(), Some("/srv"));
    }

    #[test]
    fn cve_2022_29162_a_guest_inherits_no_capabilities() {
        for more in [vec![], vec!["CAP_CHOWN".to_string()]] {
            let asked = more.len();
            let wishes = Wishes { arguments: vec!["ls".into()], capabilities: more, ..Wishes::default() };
            let process = process(&container(), &wishes).unwrap();
            let sets = process.capabilities().as_ref().unwrap();
            assert_eq!(sets.inheritable(), &None);
            assert_eq!(sets.ambient(), &None);
            assert_eq!(sets.bounding().as_ref().unwrap().len(), 1 + asked);
        }
    }
}
