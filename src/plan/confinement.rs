//! What holds the process: security labels, keyring, personality, no_new_privileges, the seccomp filter.
//!
//! Runs outside. What a filter is made of is the business of `seccomp/`.

use std::ffi::CStr;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use oci_spec::runtime::{LinuxPersonalityDomain, Process};

use super::filesystem::mount_label;
use super::request::{Request, c_string};
use super::seccomp::{Filter, Wishes};
use super::steps::Steps;
use super::{Action, annotations, seccomp};

/// Files of procfs that take a label (apparmor(7), selinux(8)).
pub const APPARMOR_EXEC: &CStr = c"thread-self/attr/apparmor/exec";
pub const SELINUX_EXEC: &CStr = c"thread-self/attr/exec";
pub const SELINUX_KEYS: &CStr = c"thread-self/attr/keycreate";

/// Before the name of a profile, in what is written to [`APPARMOR_EXEC`].
pub const APPARMOR_COMMAND: &str = "exec ";

/// personality(2)
const DOMAINS: &[(LinuxPersonalityDomain, u64)] =
    &[(LinuxPersonalityDomain::PerLinux, 0), (LinuxPersonalityDomain::PerLinux32, 8)];

/// A keyring of its own, so that the container finds nobody else's keys.
pub fn plan_keyring(request: &Request, process: &Process, steps: &mut Steps) -> Result<()> {
    if request.options.no_new_keyring {
        return Ok(());
    }
    if let Some(label) = selinux_label(request, process)? {
        steps.every(Action::Label { file: SELINUX_KEYS.into(), text: c_string(label)? });
    }
    steps.every(Action::SessionKeyring { name: c_string(format!("_ses.{}", request.id))? });
    Ok(())
}

/// The labels that take effect at execve(2). A process does not run without its own; what files are labelled only
/// SELinux asks, so without it that is nothing but a warning, as with crun.
pub fn plan_labels(request: &Request, process: &Process, steps: &mut Steps) -> Result<()> {
    if let Some(label) = mount_label(request).filter(|_| !request.facts.selinux && steps.is_birth()) {
        steps.warn(format!("linux.mountLabel: {label:?} has no effect: SELinux is not enabled here"));
    }
    if let Some(profile) = process.apparmor_profile().as_deref().filter(|profile| !profile.is_empty()) {
        let enabled = request.facts.apparmor;
        ensure!(
            enabled,
            "process.apparmorProfile: {profile:?} is asked for, but AppArmor is not enabled here"
        );
        let text = c_string(format!("{APPARMOR_COMMAND}{profile}"))?;
        steps.every(Action::Label { file: APPARMOR_EXEC.into(), text });
    }
    if let Some(label) = selinux_label(request, process)? {
        steps.every(Action::Label { file: SELINUX_EXEC.into(), text: c_string(label)? });
    }
    Ok(())
}

fn selinux_label<'a>(request: &Request, process: &'a Process) -> Result<Option<&'a str>> {
    let Some(label) = process.selinux_label().as_deref().filter(|label| !label.is_empty()) else {
        return Ok(None);
    };
    let enabled = request.facts.selinux;
    ensure!(enabled, "process.selinuxLabel: {label:?} is asked for, but SELinux is not enabled here");
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
    let profile = request.linux().and_then(|linux| linux.seccomp().as_ref());
    let compiled = annotations::get(request.spec, annotations::SECCOMP_PROGRAM);
    annotations::path(request.spec, annotations::SECCOMP_RECEIVER)?;
    let receiver = annotations::get(request.spec, annotations::SECCOMP_RECEIVER).map(Path::new);
    let wishes = Wishes {
        kernel_flags: request.facts.filter_flags,
        receiver: receiver.or(request.options.seccomp_receiver.as_deref()),
        strict: annotations::is_set(request.spec, annotations::SECCOMP_STRICT)?,
    };
    let filter = match (compiled, profile) {
        (Some(compiled), _) => seccomp::plan_raw(compiled, profile, &wishes)
            .with_context(|| format!("annotations.{}", annotations::SECCOMP_PROGRAM))?,
        (None, Some(profile)) => seccomp::plan(profile, &wishes)?,
        (None, None) => return Ok(None),
    };
    filter.warnings.iter().for_each(|warning| steps.warn(warning.clone()));
    let early = !process.no_new_privileges().unwrap_or(false);
    Ok(Some((Box::new(filter), early)))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::plan::bundle::parse_process;
    use crate::plan::testing::Given;

    fn process(members: Value) -> Process {
        let mut whole = json!({"cwd": "/", "args": ["true"]});
        members.as_object().unwrap().iter().for_each(|(name, member)| whole[name] = member.clone());
        parse_process(whole.to_string().as_bytes()).unwrap().0
    }

    fn intents(given: &Given, planner: impl Fn(&Request, &mut Steps) -> Result<()>) -> Result<Vec<String>> {
        let mut steps = Steps::new(given.facts.authority);
        planner(&given.request(), &mut steps)?;
        Ok(steps.finish().steps.iter().map(|step| step.action.intent()).collect())
    }

    #[test]
    fn labels_are_written_where_execve_looks_for_them() {
        let mut given = Given::new(json!({}));
        given.facts.selinux = true;
        let process = process(json!({"apparmorProfile": "web", "selinuxLabel": "u:r:t:s0"}));
        assert_eq!(
            intents(&given, |request, steps| plan_labels(request, &process, steps)).unwrap(),
            [
                "write \"exec web\" to thread-self/attr/apparmor/exec",
                "write u:r:t:s0 to thread-self/attr/exec"
            ]
        );
        assert_eq!(
            intents(&given, |request, steps| plan_keyring(request, &process, steps)).unwrap(),
            ["write u:r:t:s0 to thread-self/attr/keycreate", "join session keyring _ses.web"]
        );
    }

    #[test]
    #[allow(clippy::disallowed_methods, reason = "the kernel has the names")]
    fn the_files_of_labels_are_procfs_own() {
        let mut given = Given::new(json!({}));
        given.facts.selinux = true;
        let process = process(json!({"selinuxLabel": "u:r:t:s0"}));
        let mut steps = Steps::new(given.facts.authority);
        plan_keyring(&given.request(), &process, &mut steps).unwrap();
        plan_labels(&given.request(), &process, &mut steps).unwrap();
        let files = steps.listed().iter().filter_map(|step| match &step.action {
            Action::Label { file, .. } => Some(file.to_str().unwrap()),
            _ => None,
        });
        let files: Vec<&str> = files.collect();
        assert_eq!(files.len(), 2);
        assert!(files.iter().all(|file| std::path::Path::new("/proc").join(file).exists()), "{files:?}");
    }

    #[test]
    fn a_profile_is_never_left_out_because_its_module_is_missing() {
        let mut given = Given::new(json!({}));
        given.facts.apparmor = false;
        let profiled = process(json!({"apparmorProfile": "web"}));
        let refused = intents(&given, |request, steps| plan_labels(request, &profiled, steps)).unwrap_err();
        assert!(refused.to_string().contains("AppArmor is not enabled"), "{refused}");
        let empty = process(json!({"apparmorProfile": ""}));
        assert_eq!(intents(&given, |request, steps| plan_labels(request, &empty, steps)).unwrap(), [""; 0]);
    }

    #[test]
    fn a_mount_label_that_no_module_would_read_is_warned_about_once() {
        let mut given = Given::new(json!({"linux": {"mountLabel": "u:r:t:s0"}}));
        given.facts.selinux = false;
        let warnings = |mut steps: Steps| {
            plan_labels(&given.request(), &process(json!({})), &mut steps).unwrap();
            steps.finish().warnings
        };
        let said = ["linux.mountLabel: \"u:r:t:s0\" has no effect: SELinux is not enabled here"];
        assert_eq!(warnings(Steps::new(given.facts.authority)), said);
        assert_eq!(warnings(Steps::of_a_guest(given.facts.authority)), [""; 0]);
    }

    #[test]
    fn the_callers_keyring_stays_when_asked_to() {
        let mut given = Given::new(json!({}));
        given.options.no_new_keyring = true;
        let planned = intents(&given, |request, steps| plan_keyring(request, &process(json!({})), steps));
        assert_eq!(planned.unwrap(), [""; 0]);
    }

    #[test]
    fn a_filter_is_early_unless_no_privileges_can_be_gained() {
        let given = Given::new(json!({"linux": {"seccomp": {"defaultAction": "SCMP_ACT_ALLOW"}}}));
        let early = |members: Value| {
            let mut steps = Steps::new(given.facts.authority);
            filter(&given.request(), &process(members), &mut steps).unwrap().unwrap().1
        };
        assert!(early(json!({})));
        assert!(!early(json!({"noNewPrivileges": true})));
    }

    #[test]
    fn a_domain_is_what_personality_2_calls_it() {
        let given = Given::new(json!({"linux": {"personality": {"domain": "LINUX32"}}}));
        let mut steps = Steps::new(given.facts.authority);
        plan_personality(&given.request(), &mut steps).unwrap();
        let plan = steps.finish();
        assert!(matches!(plan.steps[0].action, Action::Personality { value: 8 }), "{plan:?}");
    }
}
