//! Our filters and libseccomp's give the same verdicts, over every system call and generated arguments.
//!
//! `integration/libseccomp.py` compiles the same profiles as runc would. Generated profiles keep away
//! from what libseccomp 2.5 gets wrong (it loses rules, or lets them match what they do not say): a bound
//! on an argument beside another bound or a mask on it, and rules with several conditions that share a
//! call with other rules.

use std::collections::HashMap;
use std::io::Write;
use std::process::{Command, Stdio};
use std::thread;

use seccompiler::sock_filter;
use serde::Deserialize;

use super::generator::{self, Random};
use super::*;
use crate::plan::tests::absence::skip;
use interpreter::{run, verify};

const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/integration/libseccomp.py");
/// Debian's, whose modules those of another Python do not see.
const PYTHON: &str = "/usr/bin/python3";
const PROFILES: usize = 400;

#[derive(Deserialize)]
#[serde(untagged)]
enum Answer {
    Compiled { program: Vec<(u16, u8, u8, u32)>, unknown: Vec<String>, newest: HashMap<String, Option<u32>> },
    Refused { refused: String },
}

#[test]
fn libseccomp_gives_the_same_verdicts() {
    let modules = Command::new(PYTHON).args(["-c", "import seccomp"]).output();
    if !modules.is_ok_and(|output| output.status.success()) {
        skip("python3-seccomp is not installed");
        return;
    }
    let mut random = Random(0x5eed);
    let engines = [profiles::DOCKER, profiles::PODMAN].map(|text| serde_json::from_str(text).unwrap());
    let generated = (0..PROFILES).map(|_| generator::profile(&mut random));
    let profiles: Vec<Value> = engines.into_iter().chain(generated).collect();
    let mut compared = 0;
    for (nth, answer) in ask(&profiles).into_iter().enumerate() {
        match answer {
            Answer::Compiled { program, unknown, newest } => {
                let theirs = program.iter().map(|&(code, jt, jf, k)| sock_filter { code, jt, jf, k });
                compare(&profiles[nth], &unknown, &newest, &theirs.collect::<Vec<_>>(), &mut random);
                compared += 1;
            }
            Answer::Refused { refused } => {
                // EEXIST: two rules for one call with equal conditions and different actions.
                let conflict = refused.contains("errno = -17");
                assert!(conflict && nth >= 2, "{refused}: {}", profiles[nth]);
            }
        }
    }
    assert!(compared >= 200, "{compared} profiles were compared");
}

fn ask(profiles: &[Value]) -> Vec<Answer> {
    let mut python = Command::new(PYTHON);
    python.arg(SCRIPT).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = python.spawn().expect("python");
    let mut questions = child.stdin.take().expect("a pipe");
    let text: String = profiles.iter().map(|profile| format!("{profile}\n")).collect();
    let asking = thread::spawn(move || questions.write_all(text.as_bytes()));
    let output = child.wait_with_output().expect("answers");
    asking.join().expect("a thread").expect("write");
    let answers: Vec<Answer> = output
        .stdout
        .split(|byte| *byte == b'\n')
        .filter(|line| !line.is_empty())
        .map(parse_answer)
        .collect();
    assert_eq!(answers.len(), profiles.len());
    answers
}

fn parse_answer(line: &[u8]) -> Answer {
    serde_json::from_slice(line).expect("an answer")
}

fn compare(
    profile: &Value,
    unknown: &[String],
    newest: &HashMap<String, Option<u32>>,
    theirs: &[sock_filter],
    random: &mut Random,
) {
    // What is newer than their library is not ours to compare.
    let mut known = profile.clone();
    for call in known["syscalls"].as_array_mut().expect("rules") {
        let names = call["names"].as_array_mut().expect("names");
        names.retain(|name| !unknown.iter().any(|unknown| name == unknown));
    }
    let ours = compile(known).program;
    verify(theirs);
    let hides = hides_newer_calls(default_of(profile));
    for call in generator::calls(profile, random) {
        let newest = newest.get(call.maker()).copied().flatten();
        let newer = hides && newest.is_some_and(|newest| call.number() > newest);
        let expected = if newer { NO_SUCH_CALL } else { run(theirs, &call).action };
        let verdict = run(&ours, &call).action;
        assert_eq!(verdict, expected, "ours {verdict:#x}, theirs {expected:#x}: {call:x?} in {profile}");
    }
}

fn default_of(profile: &Value) -> u32 {
    let profile = parse(profile.clone());
    action(profile.default_action(), profile.default_errno_ret(), String::new).expect("an action")
}
