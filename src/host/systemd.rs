//! What systemd is asked for (org.freedesktop.systemd1(5)): a scope around a process, its end, new properties.
//!
//! Runs outside. Nothing here waits longer than [`PATIENCE`]; the error then says what was asked and did not come.

use std::time::Duration;

use anyhow::{Context, Error, Result, bail};

use super::bus::{Bus, Call, Refused, address_of};
use crate::plan::cgroup::Unit;
use crate::plan::systemd::variant::Variant;
use crate::plan::systemd::{self, Manager, Property};

/// For all that is asked of systemd at one time: what others wait for it, too.
const PATIENCE: Duration = Duration::from_secs(30);
/// Before it is asked again, where it says that it is busy.
const PAUSE: Duration = Duration::from_millis(100);

const NAME: &str = "org.freedesktop.systemd1";
const PATH: &str = "/org/freedesktop/systemd1";
const MANAGER: &str = "org.freedesktop.systemd1.Manager";

const UNIT: &str = "org.freedesktop.systemd1.Unit";

const UNIT_EXISTS: &str = "org.freedesktop.systemd1.UnitExists";
const NO_SUCH_UNIT: &str = "org.freedesktop.systemd1.NoSuchUnit";
const BUSY: &[&str] = &["System.Error.EAGAIN", "System.Error.EINTR"];

/// A connection to the systemd that keeps a unit.
pub struct Systemd<'a> {
    bus: Bus,
    unit: &'a Unit,
}

/// Where a manager is to be found, as the environment says or as everybody has it.
pub fn bus_of(manager: Manager) -> Result<String> {
    let variable = |name| std::env::var(name).ok().filter(|value| !value.is_empty());
    match manager {
        Manager::System => {
            Ok(variable("DBUS_SYSTEM_BUS_ADDRESS")
                .unwrap_or_else(|| address_of("/run/dbus/system_bus_socket")))
        }
        Manager::User => match (variable("DBUS_SESSION_BUS_ADDRESS"), variable("XDG_RUNTIME_DIR")) {
            (Some(address), _) => Ok(address),
            (None, Some(directory)) => Ok(address_of(&format!("{directory}/bus"))),
            (None, None) => bail!(
                "--systemd-cgroup: the user's systemd cannot be found: neither DBUS_SESSION_BUS_ADDRESS nor \
                 XDG_RUNTIME_DIR is set"
            ),
        },
    }
}

impl Systemd<'_> {
    pub fn connect(unit: &Unit) -> Result<Systemd<'_>> {
        Systemd::connect_within(unit, PATIENCE)
    }

    fn connect_within(unit: &Unit, patience: Duration) -> Result<Systemd<'_>> {
        let manager = unit.manager.name();
        let bus = Bus::connect(&unit.bus, patience)
            .with_context(|| format!("ask {manager} for the cgroup (--systemd-cgroup)"))?;
        Ok(Systemd { bus, unit })
    }

    /// Have the scope made, with a process in it; it is there when this returns. Properties that this systemd does not
    /// know yet are left out: the group's files say the same.
    pub fn start(&mut self, properties: &[Property], pid: i32) -> Result<()> {
        self.watch_jobs()?;
        let mut properties = self.marshalled(properties)?;
        properties.push(pair("PIDs", Variant::Array("u".into(), vec![Variant::Uint32(pid as u32)])));
        let none = Variant::Array("(sa(sv))".into(), Vec::new());
        let body = [self.name(), Variant::text("fail"), Variant::Array("(sv)".into(), properties), none];
        let started = match self.ask("StartTransientUnit", &body) {
            // What has failed is kept for its owner to see. Nobody needs to see a container's any more.
            Err(error) if is(&error, &[UNIT_EXISTS]) => {
                self.reset()?;
                self.ask("StartTransientUnit", &body)
            }
            started => started,
        };
        let result = self.end_of(started?)?;
        if result != "done" {
            self.reset()?;
            bail!("{} did not become a unit: its job ended as {result:?}", self.unit.name);
        }
        Ok(())
    }

    /// End the unit. One that is not there any more is fine: systemd collects a scope without processes.
    pub fn stop(&mut self) -> Result<()> {
        self.watch_jobs()?;
        match self.ask("StopUnit", &[self.name(), Variant::text("replace")]) {
            Err(error) if is(&error, &[NO_SUCH_UNIT]) => return Ok(()),
            job => self.end_of(job?)?,
        };
        self.reset()
    }

    /// The same, but only if it was made for this container: somebody else's may have the name.
    pub fn stop_that_of(&mut self, id: &str) -> Result<()> {
        let path = match self.ask("GetUnit", &[self.name()]) {
            Err(error) if is(&error, &[NO_SUCH_UNIT]) => return Ok(()),
            answer => answer?.into_iter().next(),
        };
        match path {
            Some(Variant::Path(path))
                if self.property(&path, UNIT, "Description")? == systemd::description(id) =>
            {
                self.stop()
            }
            _ => Ok(()),
        }
    }

    /// Change properties until the unit's end. In force when this returns.
    pub fn set(&mut self, properties: &[Property]) -> Result<()> {
        let properties = self.marshalled(properties)?;
        if properties.is_empty() {
            return Ok(());
        }
        let properties = Variant::Array("(sv)".into(), properties);
        self.ask("SetUnitProperties", &[self.name(), Variant::Bool(true), properties])?;
        // They are written after that answer and before systemd looks at the next call.
        self.version().map(drop)
    }

    /// Move a process of ours into a group of the unit, from wherever it is: systemd may do what the user may not.
    pub fn attach(&mut self, subgroup: &str, pid: i32) -> Result<()> {
        let pids = Variant::Array("u".into(), vec![Variant::Uint32(pid as u32)]);
        self.ask("AttachProcessesToUnit", &[self.name(), Variant::text(subgroup), pids]).map(drop)
    }

    /// Have systemd forget that the unit has failed, and with that the unit.
    fn reset(&mut self) -> Result<()> {
        match self.ask("ResetFailedUnit", &[self.name()]) {
            // It had not failed; then there is nothing left to forget.
            Err(error) if error.downcast_ref::<Refused>().is_some() => Ok(()),
            answer => answer.map(drop),
        }
    }

    fn name(&self) -> Variant {
        Variant::text(&*self.unit.name)
    }

    fn ask(&mut self, member: &str, body: &[Variant]) -> Result<Vec<Variant>> {
        let call = Call { destination: NAME, path: PATH, interface: MANAGER, member, body };
        loop {
            match self.bus.call(&call) {
                Err(error) if is(&error, BUSY) => self.bus.pause(PAUSE, member)?,
                answer => {
                    return answer
                        .with_context(|| format!("{}, {}", self.unit.manager.name(), self.unit.name));
                }
            }
        }
    }

    /// Before a job is asked for, which may be done before its number is known.
    fn watch_jobs(&mut self) -> Result<()> {
        let rule =
            format!("type='signal',sender='{NAME}',interface='{MANAGER}',member='JobRemoved',path='{PATH}'");
        let daemon = "org.freedesktop.DBus";
        let body = [Variant::Text(rule)];
        let path = "/org/freedesktop/DBus";
        let call = Call { destination: daemon, path, interface: daemon, member: "AddMatch", body: &body };
        self.bus.call(&call).map(drop)
    }

    /// Wait for the end of a job, and say how it ended.
    fn end_of(&mut self, job: Vec<Variant>) -> Result<String> {
        let Some(Variant::Path(job)) = job.into_iter().next() else {
            bail!("{} answers without a job", self.unit.manager.name());
        };
        loop {
            let signal = self.bus.signal(&format!("the end of the job for {}", self.unit.name))?;
            // Number, path, unit, result.
            if let ("JobRemoved", [_, Variant::Path(removed), _, Variant::Text(result)]) =
                (signal.member.as_str(), signal.body.as_slice())
                && *removed == job
            {
                return Ok(result.clone());
            }
        }
    }

    fn marshalled(&mut self, properties: &[Property]) -> Result<Vec<Variant>> {
        let version = self.version()?;
        let known = properties.iter().filter(|property| property.since <= version);
        Ok(known.map(|property| pair(&property.name, property.value.clone())).collect())
    }

    fn property(&mut self, path: &str, of: &str, name: &str) -> Result<String> {
        let body = [Variant::text(of), Variant::text(name)];
        let interface = "org.freedesktop.DBus.Properties";
        let call = Call { destination: NAME, path, interface, member: "Get", body: &body };
        let answer = self.bus.call(&call).with_context(|| self.unit.manager.name())?;
        if let Some(Variant::Boxed(value)) = answer.into_iter().next()
            && let Variant::Text(text) = *value
        {
            return Ok(text);
        }
        bail!("{} has no {name}", self.unit.manager.name())
    }

    /// Such as 257, of `257.9-1~deb13u1`.
    fn version(&mut self) -> Result<u32> {
        let text = self.property(PATH, MANAGER, "Version")?;
        parse_version(&text).with_context(|| format!("{text:?} is not a version of systemd"))
    }
}

fn parse_version(text: &str) -> Option<u32> {
    text.split(|letter: char| !letter.is_ascii_digit()).find(|digits| !digits.is_empty())?.parse().ok()
}

fn pair(name: &str, value: Variant) -> Variant {
    Variant::Struct(vec![Variant::text(name), Variant::Boxed(Box::new(value))])
}

fn is(error: &Error, names: &[&str]) -> bool {
    error.downcast_ref::<Refused>().is_some_and(|refused| names.contains(&refused.name.as_str()))
}

#[cfg(test)]
mod tests {
    use super::super::bus::peer::{Peer, Says};
    use super::*;

    const SHORT: Duration = Duration::from_millis(500);
    const JOB: &str = "/org/freedesktop/systemd1/job/7";

    fn removed(job: &str, result: &str) -> Says {
        let body = vec![
            Variant::Uint32(7),
            Variant::Path(job.into()),
            Variant::text("a.scope"),
            Variant::text(result),
        ];
        Says::Signal("JobRemoved", body)
    }

    fn version(text: &str) -> Says {
        Says::Answer("Get", vec![Variant::Boxed(Box::new(Variant::text(text)))])
    }

    fn job(member: &'static str) -> Says {
        Says::Answer(member, vec![Variant::Path(JOB.into())])
    }

    fn matched() -> Says {
        Says::Answer("AddMatch", vec![])
    }

    /// What becomes of an action, and the members that were called with the last one's body.
    fn talk(
        script: Vec<Says>,
        act: impl FnOnce(&mut Systemd<'_>) -> Result<()>,
    ) -> (Result<()>, Vec<String>, Vec<Variant>) {
        let peer = Peer::start([vec![Says::Hello], script].concat());
        let unit = Unit { name: "a.scope".into(), manager: Manager::System, bus: peer.address.clone() };
        let outcome = Systemd::connect_within(&unit, SHORT).and_then(|mut systemd| act(&mut systemd));
        let calls: Vec<_> = peer.calls.iter().collect();
        let last = calls.last().map(|(_, body)| body.clone()).unwrap_or_default();
        (outcome, calls.into_iter().map(|(member, _)| member).collect(), last)
    }

    fn start(script: Vec<Says>) -> (Result<()>, Vec<String>, Vec<Variant>) {
        let properties = [
            Property::new("Delegate", Variant::Bool(true)),
            Property::new("AllowedCPUs", Variant::Array("y".into(), vec![Variant::Byte(1)])).since(244),
        ];
        talk(script, move |systemd| systemd.start(&properties, 42))
    }

    #[test]
    fn a_scope_is_there_when_its_job_is_done() {
        // Another job's end, and our own before the answer that names it.
        let script = vec![
            matched(),
            version("257.9-1~deb13u1"),
            removed("/org/freedesktop/systemd1/job/6", "failed"),
            removed(JOB, "done"),
            job("StartTransientUnit"),
        ];
        let (outcome, calls, body) = start(script);
        outcome.unwrap();
        assert_eq!(calls, ["AddMatch", "Get", "StartTransientUnit"]);
        let body: Vec<String> = body.iter().map(ToString::to_string).collect();
        assert_eq!(
            body,
            [
                "'a.scope'",
                "'fail'",
                "[('Delegate', <true>), ('AllowedCPUs', <[byte 1]>), ('PIDs', <[uint32 42]>)]",
                "@a(sa(sv)) []"
            ]
        );
    }

    #[test]
    fn an_old_systemd_is_not_told_what_it_does_not_know() {
        let script =
            vec![matched(), version("v243 (243-1)"), job("StartTransientUnit"), removed(JOB, "done")];
        let (outcome, _, body) = start(script);
        outcome.unwrap();
        assert_eq!(body[2].to_string(), "[('Delegate', <true>), ('PIDs', <[uint32 42]>)]");
        for (text, number) in [("219", Some(219)), ("v245.4-4ubuntu3", Some(245)), ("", None)] {
            assert_eq!(parse_version(text), number);
        }
    }

    #[test]
    fn a_unit_that_exists_is_reset_and_tried_once_more() {
        let exists = || Says::Error("StartTransientUnit", UNIT_EXISTS, "Unit a.scope was already loaded.");
        let reset = || Says::Answer("ResetFailedUnit", vec![]);
        let begin = || vec![matched(), version("257"), exists(), reset()];
        let script = [begin(), vec![job("StartTransientUnit"), removed(JOB, "done")]].concat();
        start(script).0.unwrap();

        let (outcome, calls, _) = start([begin(), vec![exists()]].concat());
        let error = format!("{:#}", outcome.unwrap_err());
        assert!(
            error.starts_with("the system's systemd, a.scope: StartTransientUnit: Unit a.scope was"),
            "{error}"
        );
        assert_eq!(calls.iter().filter(|call| *call == "StartTransientUnit").count(), 2);
    }

    #[test]
    fn a_busy_systemd_is_asked_again() {
        let busy = || Says::Error("StartTransientUnit", "System.Error.EAGAIN", "busy");
        let mut script = vec![matched(), version("257"), busy(), busy()];
        script.extend([job("StartTransientUnit"), removed(JOB, "done")]);
        start(script).0.unwrap();

        let for_ever = [vec![matched(), version("257")], vec![busy(); 30]].concat();
        let error = format!("{:#}", start(for_ever).0.unwrap_err());
        assert!(error.contains("did not answer within 0.5 s: StartTransientUnit"), "{error}");
    }

    #[test]
    fn a_job_that_fails_or_never_ends_is_an_error_that_says_so() {
        let reset = Says::Answer("ResetFailedUnit", vec![]);
        let begin = || vec![matched(), version("257"), job("StartTransientUnit")];
        let (outcome, calls, _) = start([begin(), vec![removed(JOB, "failed"), reset]].concat());
        assert_eq!(
            outcome.unwrap_err().to_string(),
            "a.scope did not become a unit: its job ended as \"failed\""
        );
        assert_eq!(calls.last().unwrap(), "ResetFailedUnit");
        let error = start([begin(), vec![Says::Chatter]].concat()).0.unwrap_err().to_string();
        assert!(error.ends_with("did not answer within 0.5 s: the end of the job for a.scope"), "{error}");
    }

    #[test]
    fn a_unit_that_is_gone_needs_no_stopping() {
        let script = vec![matched(), Says::Error("StopUnit", NO_SUCH_UNIT, "Unit a.scope not loaded.")];
        talk(script, |systemd| systemd.stop()).0.unwrap();
        let not_failed = Says::Error("ResetFailedUnit", NO_SUCH_UNIT, "Unit a.scope not loaded.");
        let (outcome, calls, _) =
            talk(vec![matched(), job("StopUnit"), removed(JOB, "done"), not_failed], |systemd| {
                systemd.stop()
            });
        outcome.unwrap();
        assert_eq!(calls, ["AddMatch", "StopUnit", "ResetFailedUnit"]);
        let denied = Says::Error("StopUnit", "org.freedesktop.DBus.Error.AccessDenied", "no");
        talk(vec![matched(), denied], |systemd| systemd.stop()).0.unwrap_err();
    }

    #[test]
    fn a_unit_is_ended_only_if_it_is_the_containers() {
        let found = || Says::Answer("GetUnit", vec![Variant::Path("/a/unit".into())]);
        let described = |text: &str| Says::Answer("Get", vec![Variant::Boxed(Box::new(Variant::text(text)))]);
        let end = vec![
            found(),
            described("corten container web"),
            matched(),
            job("StopUnit"),
            removed(JOB, "done"),
            Says::Answer("ResetFailedUnit", vec![]),
        ];
        for (script, ended) in [
            (end, true),
            (vec![found(), described("corten container other")], false),
            (vec![Says::Error("GetUnit", NO_SUCH_UNIT, "Unit a.scope not loaded.")], false),
        ] {
            let (outcome, calls, _) = talk(script, |systemd| systemd.stop_that_of("web"));
            outcome.unwrap();
            assert_eq!(calls.contains(&"StopUnit".to_string()), ended, "{calls:?}");
        }
    }

    #[test]
    fn new_properties_are_in_force_when_the_next_call_is_answered() {
        let script = vec![version("257"), Says::Answer("SetUnitProperties", vec![]), version("257")];
        let properties = [Property::new("TasksMax", Variant::Uint64(5))];
        let (outcome, calls, _) = talk(script, |systemd| systemd.set(&properties));
        outcome.unwrap();
        assert_eq!(calls, ["Get", "SetUnitProperties", "Get"]);
    }
}
