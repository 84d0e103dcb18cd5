//! Hooks: whose programs run when, and the state that they read.
//!
//! Runs outside. Owns the table of points, which `features` prints.

use std::ffi::CString;
use std::path::Path;

use anyhow::{Result, ensure};
use oci_spec::runtime::{Hooks, Spec};
use serde_json::Value;

use super::annotations::{self, Annotations};
use super::request::{Request, c_path, c_string};
use super::steps::Steps;
use super::{Action, Hook, HookPoint, HookState, HookStreams, Open};

/// The specification that `state` speaks of.
pub const SPECIFICATION: &str = "1.3.0";

/// A point of a container's life: its name in a configuration, and the container's status then. The specification
/// counts: `creating` is step 2 of the lifecycle, and the first hooks are step 3.
#[derive(Debug)]
pub struct Point {
    pub point: HookPoint,
    pub name: &'static str,
    pub status: &'static str,
    listed: fn(&Hooks) -> &Option<Vec<oci_spec::runtime::Hook>>,
}

#[allow(deprecated, reason = "the specification still has prestart hooks run")]
pub const POINTS: &[Point] = &[
    Point { point: HookPoint::Prestart, name: "prestart", status: "created", listed: Hooks::prestart },
    Point {
        point: HookPoint::CreateRuntime,
        name: "createRuntime",
        status: "created",
        listed: Hooks::create_runtime,
    },
    Point {
        point: HookPoint::CreateContainer,
        name: "createContainer",
        status: "created",
        listed: Hooks::create_container,
    },
    Point {
        point: HookPoint::StartContainer,
        name: "startContainer",
        status: "created",
        listed: Hooks::start_container,
    },
    Point { point: HookPoint::Poststart, name: "poststart", status: "running", listed: Hooks::poststart },
    Point { point: HookPoint::Poststop, name: "poststop", status: "stopped", listed: Hooks::poststop },
];

impl HookPoint {
    fn row(self) -> &'static Point {
        POINTS.iter().find(|row| row.point == self).expect("the table holds every point")
    }

    /// As the configuration calls it.
    pub fn name(self) -> &'static str {
        self.row().name
    }

    /// What the container is at this point.
    pub fn status(self) -> &'static str {
        self.row().status
    }
}

/// The hooks that the parent runs, whenever it does.
pub fn plan_outside(request: &Request, steps: &mut Steps) -> Result<()> {
    steps.outside.prestart = hooks(request, HookPoint::Prestart)?;
    steps.outside.create_runtime = hooks(request, HookPoint::CreateRuntime)?;
    steps.outside.poststart = hooks(request, HookPoint::Poststart)?;
    steps.outside.poststop = hooks(request, HookPoint::Poststop)?;
    Ok(())
}

/// The hooks that init runs at a point.
pub fn plan_inside(request: &Request, point: HookPoint, steps: &mut Steps) -> Result<()> {
    let hooks = hooks(request, point)?;
    if !hooks.is_empty() && steps.is_birth() {
        let state = state(request.id, request.bundle, &steps.outside.annotations, point.status());
        let streams = steps.hook_streams;
        steps.birth(Action::Hooks { point, hooks, state, streams });
    }
    Ok(())
}

/// What hooks in the container print to, opened while the host's files are there.
pub fn plan_streams(request: &Request, steps: &mut Steps) -> Result<()> {
    let inside = [HookPoint::CreateContainer, HookPoint::StartContainer];
    let listed = inside.map(|point| hooks(request, point)).into_iter().collect::<Result<Vec<_>>>()?;
    let Some(hook) = listed.iter().flatten().next() else { return Ok(()) };
    let mut open = |path: &Option<CString>| {
        path.as_ref().map(|path| steps.open(Open::HookOutput { path: path.clone() }))
    };
    let streams = HookStreams { stdout: open(&hook.stdout), stderr: open(&hook.stderr) };
    steps.hook_streams = streams;
    Ok(())
}

pub fn are_listed(request: &Request, point: HookPoint) -> bool {
    let hooks = request.spec.hooks().as_ref();
    hooks.and_then(|hooks| (point.row().listed)(hooks).as_ref()).is_some_and(|listed| !listed.is_empty())
}

fn hooks(request: &Request, point: HookPoint) -> Result<Vec<Hook>> {
    of_point(request.spec, point)
}

/// The hooks of a configuration that run at a point.
pub fn of_point(spec: &Spec, point: HookPoint) -> Result<Vec<Hook>> {
    let row = point.row();
    let listed = spec.hooks().as_ref().and_then(|hooks| (row.listed)(hooks).as_deref());
    let stdout = annotations::path(spec, annotations::HOOKS_STDOUT)?;
    let stderr = annotations::path(spec, annotations::HOOKS_STDERR)?;
    let listed = listed.unwrap_or_default().iter().enumerate();
    listed
        .map(|(index, hook)| {
            let hook = parse(hook, &format!("hooks.{}[{index}]", row.name))?;
            Ok(Hook { stdout: stdout.clone(), stderr: stderr.clone(), ..hook })
        })
        .collect()
}

fn parse(hook: &oci_spec::runtime::Hook, path: &str) -> Result<Hook> {
    let strings =
        |listed: &[String]| listed.iter().map(|text| c_string(text.as_str())).collect::<Result<_>>();
    let program = c_path(hook.path(), format_args!("{path}.path"))?;
    let arguments = match hook.args() {
        Some(arguments) if !arguments.is_empty() => strings(arguments)?,
        _ => vec![program.clone()],
    };
    let timeout_ms = match hook.timeout() {
        None => None,
        Some(seconds) => {
            ensure!(seconds > 0, "{path}.timeout: {seconds} is not a number of seconds above 0");
            Some((seconds as u64).saturating_mul(1000))
        }
    };
    let environment = hook.env().as_deref().map(strings).transpose()?;
    Ok(Hook { path: program, arguments, environment, timeout_ms, stdout: None, stderr: None })
}

/// A container's state as hooks read it, around the pid; the members stand in the order in which runc writes them,
/// without spaces, because shell hooks look for text.
pub fn state(id: &str, bundle: &Path, annotations: &Annotations, status: &str) -> HookState {
    let quoted = |text: &str| Value::from(text).to_string();
    let version = quoted(SPECIFICATION);
    let before_pid =
        format!("{{\"ociVersion\":{version},\"id\":{},\"status\":{},\"pid\":", quoted(id), quoted(status));
    let mut after_pid = format!(",\"bundle\":{}", quoted(&bundle.to_string_lossy()));
    if !annotations.is_empty() {
        let members: Vec<String> =
            annotations.iter().map(|(name, value)| format!("{}:{}", quoted(name), quoted(value))).collect();
        after_pid.push_str(&format!(",\"annotations\":{{{}}}", members.join(",")));
    }
    after_pid.push('}');
    HookState { before_pid: before_pid.into_bytes(), after_pid: after_pid.into_bytes() }
}

impl HookState {
    /// The whole text.
    pub fn with_pid(&self, pid: i32) -> Vec<u8> {
        [self.before_pid.as_slice(), pid.to_string().as_bytes(), &self.after_pid].concat()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::testing::Given;
    use serde_json::json;

    #[test]
    fn hooks_read_the_state_in_the_shape_that_runc_writes() {
        let annotations =
            Annotations::from([("b".to_string(), "2".to_string()), ("a".to_string(), "\"/".to_string())]);
        let state = state("web", Path::new("/run/web"), &annotations, "created").with_pid(42);
        assert_eq!(
            String::from_utf8(state).unwrap(),
            r#"{"ociVersion":"1.3.0","id":"web","status":"created","pid":42,"bundle":"/run/web","annotations":{"a":"\"/","b":"2"}}"#
        );
    }

    #[test]
    fn a_hook_without_arguments_still_has_a_name() {
        let given = Given::new(json!({"hooks": {"poststop": [{"path": "/bin/true", "timeout": 3}]}}));
        let hooks = hooks(&given.request(), HookPoint::Poststop).unwrap();
        assert_eq!(hooks[0].arguments, [c"/bin/true".to_owned()]);
        assert_eq!(hooks[0].timeout_ms, Some(3000));
        assert_eq!(hooks[0].environment, None);
    }

    #[test]
    fn hooks_are_absolute_and_their_timeouts_positive() {
        let refusal = |hook| {
            let given = Given::new(json!({"hooks": {"createRuntime": [hook]}}));
            hooks(&given.request(), HookPoint::CreateRuntime).unwrap_err().to_string()
        };
        assert_eq!(refusal(json!({"path": "true"})), "hooks.createRuntime[0].path: \"true\" is not absolute");
        assert_eq!(
            refusal(json!({"path": "/bin/true", "timeout": 0})),
            "hooks.createRuntime[0].timeout: 0 is not a number of seconds above 0"
        );
    }
}
