//! What each architecture does with each of its system calls.
//!
//! Pure. Merges the rules of a profile as libseccomp does, since profiles are written against it: an
//! unconditional rule beats conditional ones, the first of several unconditional rules beats the others,
//! and x86's multiplexers are filtered by the call they carry.

use oci_spec::runtime::{LinuxSeccompArg, LinuxSyscall};
use seccompiler::SeccompCmpOp;

use super::machine::{Architecture, multiplexer};
use super::words::operator_of;

/// A rule of the profile; no condition: always.
pub struct Rule<'a> {
    pub names: &'a [String],
    pub conditions: Vec<Condition>,
    /// `SECCOMP_RET_*` with its data.
    pub action: u32,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Condition {
    pub index: u8,
    pub operator: SeccompCmpOp,
    pub value: u64,
}

/// What becomes of one system call.
#[derive(Clone, Debug, PartialEq)]
pub enum Verdict {
    Always(u32),
    /// The first case whose conditions all hold; the default action if there is none.
    First(Vec<Case>),
}

#[derive(Clone, Debug, PartialEq)]
pub struct Case {
    pub conditions: Vec<Condition>,
    pub action: u32,
}

/// Append the rules that an entry of `linux.seccomp.syscalls` stands for.
pub fn expand<'a>(call: &'a LinuxSyscall, action: u32, rules: &mut Vec<Rule<'a>>) {
    let args = call.args().as_deref().unwrap_or_default();
    let conditions = args.iter().map(condition);
    // One rule cannot test an argument twice; by long custom such an entry means any of its conditions.
    if any_index_twice(args) {
        let singles = conditions.map(|one| Rule { names: call.names(), conditions: vec![one], action });
        rules.extend(singles);
    } else {
        rules.push(Rule { names: call.names(), conditions: conditions.collect(), action });
    }
}

fn any_index_twice(args: &[LinuxSeccompArg]) -> bool {
    args.iter().enumerate().any(|(at, arg)| args[..at].iter().any(|before| before.index() == arg.index()))
}

fn condition(arg: &LinuxSeccompArg) -> Condition {
    let (operator, value) = (operator_of(arg.op()).comparison)(arg);
    Condition { index: arg.index() as u8, operator, value }
}

/// Every system call that the rules decide, by number.
pub fn verdicts(rules: &[Rule], architecture: &Architecture) -> Vec<(u32, Verdict)> {
    let mut cases = Vec::with_capacity(512);
    for rule in rules {
        for name in rule.names {
            let number = (architecture.number)(name);
            let carrier = multiplexer(name).filter(|_| architecture.multiplexed);
            if let Some((carrier, call)) = carrier {
                let mut conditions = rule.conditions.clone();
                conditions.retain(|condition| condition.index != 0);
                conditions.insert(0, Condition { index: 0, operator: SeccompCmpOp::Eq, value: call });
                cases.push((carrier, case(rule.action, conditions, architecture)));
            }
            if let Some(number) = number {
                cases.push((number, case(rule.action, rule.conditions.clone(), architecture)));
            }
        }
    }
    cases.sort_by_key(|(number, _)| *number);
    cases.chunk_by(|one, next| one.0 == next.0).map(|same| (same[0].0, merge(same))).collect()
}

fn case(action: u32, mut conditions: Vec<Condition>, architecture: &Architecture) -> Case {
    conditions.retain(|condition| match condition.operator {
        SeccompCmpOp::MaskedEq(mask) => architecture.visible(mask) != 0,
        _ => true,
    });
    Case { conditions, action }
}

fn merge(same: &[(u32, Case)]) -> Verdict {
    let mut cases = same.iter().map(|(_, case)| case);
    match cases.clone().find(|case| case.conditions.is_empty()) {
        Some(always) => Verdict::Always(always.action),
        None => Verdict::First(cases.by_ref().cloned().collect()),
    }
}
