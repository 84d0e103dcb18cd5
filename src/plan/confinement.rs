//! What holds the process: security labels, keyring, personality, no_new_privileges, the seccomp filter.
//!
//! Runs outside. What a filter is made of is the business of `seccomp/`.

use anyhow::{Context, Result, ensure};
use oci_spec::runtime::{LinuxPersonalityDomain, Process};

use super::facts::Facts;
use super::request::{Request, c_string};
use super::seccomp::Filter;
use super::steps::Steps;
use super::{Action, seccomp};

/// personality(2)
const DOMAINS: &[(LinuxPersonalityDomain, u64)] =
    &[(LinuxPersonalityDomain::PerLinux, 0), (LinuxPersonalityDomain::PerLinux32, 8)];

/// Filter flags of every kernel that corten runs on, and those that came later (seccomp(2)).
const FILTER_FLAGS: u64 = libc::SECCOMP_FILTER_FLAG_TSYNC
    | libc::SECCOMP_FILTER_FLAG_LOG
    | libc::SECCOMP_FILTER_FLAG_SPEC_ALLOW
    | libc::SECCOMP_FILTER_FLAG_NEW_LISTENER;
const LATER_FILTER_FLAGS: &[((u32, u32), u64)] = &[((5, 19), libc::SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV)];

/// A keyring of its own, so that the container finds nobody else's keys.
pub fn plan_keyring(request: &Request, process: &Process, steps: &mut Steps) -> Result<()> {
    if request.options.no_new_keyring {
        return Ok(());
    }
    if let Some(label) = selinux_label(request, process)? {
        steps.every(Action::Label { file: c"attr/keycreate".into(), text: c_string(label)? });
    }
    steps.every(Action::SessionKeyring { name: c_string(format!("_ses.{}", request.id))? });
    Ok(())
}

/// The labels that take effect at execve(2).
pub fn plan_labels(request: &Request, process: &Process, steps: &mut Steps) -> Result<()> {
    if let Some(profile) = process.apparmor_profile().as_deref().filter(|profile| !profile.is_empty()) {
        let enabled = request.facts.apparmor;
        ensure!(
            enabled,
            "process.apparmorProfile: {profile:?} is asked for, but AppArmor is not enabled here"
        );
        let text = c_string(format!("exec {profile}"))?;
        steps.every(Action::Label { file: c"attr/apparmor/exec".into(), text });
    }
    if let Some(label) = selinux_label(request, process)? {
        steps.every(Action::Label { file: c"attr/exec".into(), text: c_string(label)? });
    }
    Ok(())
}

fn selinux_label<'a>(request: &Request, process: &'a Process) -> Result<Option<&'a str>> {
    let disabled = "but SELinux is not enabled here";
    let mount_label = request.linux().and_then(|linux| linux.mount_label().as_deref()).unwrap_or_default();
    let enabled = request.facts.selinux;
    ensure!(enabled || mount_label.is_empty(), "linux.mountLabel: {mount_label:?} is asked for, {disabled}");
    let Some(label) = process.selinux_label().as_deref().filter(|label| !label.is_empty()) else {
        return Ok(None);
    };
    ensure!(enabled, "process.selinuxLabel: {label:?} is asked for, {disabled}");
    Ok(Some(label))
}

pub fn plan_personality(request: &Request, steps: &mut Steps) -> Result<()> {
    let Some(personality) = request.linux().and_then(|linux| linux.personality().as_ref()) else {
        return Ok(());
    };
    let flags = personality.flags().as_deref().unwrap_or_default();
    ensure!(flags.is_empty(), "linux.personality.flags: none are defined");
    let domain = DOMAINS.iter().find(|(domain, _)| *domain == personality.domain());
    let (_, value) = domain.context("linux.personality.domain: is not known")?;
    steps.every(Action::Personality { value: *value });
    Ok(())
}

pub fn plan_no_new_privileges(process: &Process, steps: &mut Steps) {
    if process.no_new_privileges().unwrap_or(false) {
        steps.every(Action::NoNewPrivileges);
    }
}

/// The filter, and whether it must be loaded while there are privileges: without no_new_privileges
/// the kernel wants CAP_SYS_ADMIN for it.
pub fn filter(
    request: &Request,
    process: &Process,
    steps: &mut Steps,
) -> Result<Option<(Box<Filter>, bool)>> {
    let Some(profile) = request.linux().and_then(|linux| linux.seccomp().as_ref()) else {
        return Ok(None);
    };
    let filter = seccomp::plan(profile, known_filter_flags(request.facts))?;
    filter.warnings.iter().for_each(|warning| steps.warn(warning.clone()));
    let early = !process.no_new_privileges().unwrap_or(false);
    Ok(Some((Box::new(filter), early)))
}

/// The flags that this kernel knows, by its version.
pub fn known_filter_flags(facts: &Facts) -> u64 {
    let later = LATER_FILTER_FLAGS
        .iter()
        .filter(|((version, patch_level), _)| facts.kernel_at_least(*version, *patch_level));
    later.fold(FILTER_FLAGS, |flags, (_, flag)| flags | flag)
}
