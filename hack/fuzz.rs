//! Fuzz targets: what reads text or bytes that somebody else wrote. Built and run by `hack/fuzz`, with libFuzzer.
//!
//! One program for all; `FUZZ_TARGET` says which. A target looks for panics, overflows and endless loops, and for breaches
//! of what its own function promises.

#![cfg_attr(fuzzing, no_main)]
#![cfg_attr(fuzzing, allow(dead_code, unused_imports, reason = "most of the program is not under test"))]

#[cfg(fuzzing)]
#[path = "../src/cli/mod.rs"]
mod cli;
#[cfg(fuzzing)]
#[path = "../src/container/mod.rs"]
mod container;
#[cfg(fuzzing)]
#[path = "../src/host/mod.rs"]
mod host;
#[cfg(fuzzing)]
#[path = "../src/log.rs"]
mod log;
#[cfg(fuzzing)]
#[path = "../src/plan/mod.rs"]
mod plan;
#[cfg(fuzzing)]
#[path = "../src/signal.rs"]
mod signal;
#[cfg(fuzzing)]
#[path = "../src/sys/mod.rs"]
mod sys;
#[cfg(fuzzing)]
#[path = "../src/time.rs"]
mod time;
#[cfg(fuzzing)]
#[path = "../src/wire.rs"]
mod wire;

#[cfg(not(fuzzing))]
fn main() {
    eprintln!("fuzz: run hack/fuzz, which builds this with what it needs");
    std::process::exit(1);
}

#[cfg(fuzzing)]
mod targets {
    use std::os::fd::AsFd;
    use std::path::Path;
    use std::sync::OnceLock;

    use crate::container::state::State;
    use crate::plan::annotations::Annotations;
    use crate::plan::facts::{Authority, Facts};
    use crate::plan::mount_options::MountOptions;
    use crate::plan::request::{Console, Options, Request};
    use crate::plan::{HookPoint, bundle, print, steps};
    use crate::wire::{self, Report};

    type Target = fn(&[u8]);

    const TARGETS: &[(&str, Target)] =
        &[("config", config), ("options", options), ("state", state), ("wire", wire_reports)];

    pub fn run(data: &[u8]) {
        static TARGET: OnceLock<Target> = OnceLock::new();
        let target = TARGET.get_or_init(|| {
            let name = std::env::var("FUZZ_TARGET").unwrap_or_default();
            let found = TARGETS.iter().find(|(known, _)| *known == name);
            found.unwrap_or_else(|| panic!("FUZZ_TARGET: {name:?} is no target")).1
        });
        target(data);
    }

    /// A configuration becomes a plan, for everybody, or a refusal in words.
    fn config(data: &[u8]) {
        static FACTS: OnceLock<Facts> = OnceLock::new();
        let Ok((spec, warnings)) = bundle::parse(data) else { return };
        let facts = FACTS.get_or_init(|| Facts::gather().expect("facts of this host"));
        let options = Options { console: Console::Foreground(None), ..Options::default() };
        for authority in [Authority::Root, Authority::NamespacedRoot, Authority::User] {
            let euid = if authority == Authority::User { 1000 } else { 0 };
            let facts = Facts { authority, euid, egid: euid, ..facts.clone() };
            let request = Request {
                id: "fuzz",
                bundle: Path::new("/bundle"),
                spec: &spec,
                warnings: &warnings,
                facts: &facts,
                options: &options,
            };
            match steps::birth(&request) {
                Ok(plan) => {
                    assert!(plan.open.iter().all(|(slot, _)| slot.0 < plan.slots), "a slot out of bounds");
                    assert_eq!(
                        print::text(&plan).lines().filter(|line| line.contains(" exec ")).count().min(1),
                        1
                    );
                    let process = spec.process().as_ref().expect("a plan has a process");
                    if let Err(error) = steps::guest(&request, process, 1) {
                        assert!(!format!("{error:#}").is_empty());
                    }
                }
                Err(error) => assert!(
                    format!("{error:#}").starts_with("config.json: ")
                        || format!("{error:#}").starts_with("exec: "),
                    "{error:#}"
                ),
            }
        }
    }

    /// Options, one a line, are read or refused by their place.
    fn options(data: &[u8]) {
        let text = String::from_utf8_lossy(data);
        let options: Vec<String> = text.split('\n').map(String::from).collect();
        match MountOptions::parse(&options, "mounts[0]") {
            Ok(parsed) => assert!(parsed.data.iter().all(|data| data.option < options.len())),
            Err(error) => assert!(format!("{error:#}").starts_with("mounts[0].options["), "{error:#}"),
        }
    }

    /// What is read back from what was written is the same.
    fn state(data: &[u8]) {
        let Ok(state) = serde_json::from_slice::<State>(data) else { return };
        let written = serde_json::to_vec(&state).expect("a state can be written");
        let again: State = serde_json::from_slice(&written).expect("and read again");
        assert_eq!(format!("{state:?}"), format!("{again:?}"));
        let document = state.for_hooks(&Annotations::default(), HookPoint::Poststop, 0);
        serde_json::from_slice::<serde_json::Value>(&document).expect("hooks get JSON");
        // A process that it names is looked at, never touched.
        let _ = state.init.map(|init| init.is_alive());
    }

    /// A report that can be decoded travels as it is.
    fn wire_reports(data: &[u8]) {
        let Ok(report) = Report::decode(data) else { return };
        let (from, to) = wire::pair().expect("a pair");
        wire::send(from.as_fd(), &report).expect("send");
        let again = wire::receive(to.as_fd()).expect("receive").expect("a report");
        assert_eq!(format!("{report:?}"), format!("{again:?}"));
    }
}

#[cfg(fuzzing)]
libfuzzer_sys::fuzz_target!(|data: &[u8]| targets::run(data));
