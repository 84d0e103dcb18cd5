//! What each architecture does with each of its system calls.
//!
//! Pure. Merges the rules of a profile as libseccomp does, since profiles are written against it: an
//! unconditional rule beats conditional ones, the first of several unconditional rules beats the others,
//! and x86's multiplexers are filtered by the call they carry.

use oci_spec::runtime::{LinuxSeccompArg, LinuxSyscall};
use seccompiler::{SeccompCmpArgLen, SeccompCmpOp};

use super::machine::Architecture;
use super::precedence::order;
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
    /// By argument, each at most once.
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
        let mut conditions: Vec<Condition> = conditions.collect();
        conditions.sort_by_key(|condition| condition.index);
        rules.push(Rule { names: call.names(), conditions, action });
    }
}

fn any_index_twice(args: &[LinuxSeccompArg]) -> bool {
    args.iter().enumerate().any(|(at, arg)| args[..at].iter().any(|before| before.index() == arg.index()))
}

fn condition(arg: &LinuxSeccompArg) -> Condition {
    let (operator, value) = (operator_of(arg.op()).comparison)(arg);
    Condition { index: arg.index() as u8, operator, value }
}

/// What the rules say of the calls of one architecture.
pub struct Verdicts {
    /// Sorted by number; calls that are left to the default are missing.
    pub calls: Vec<(u32, Verdict)>,
    /// The newest call that any rule names.
    pub newest: Option<u32>,
}

pub fn verdicts(rules: &[Rule], default: u32, architecture: &Architecture) -> Verdicts {
    let mut cases = Vec::with_capacity(512);
    let mut newest = None;
    for rule in rules {
        for name in rule.names {
            let number = (architecture.number)(name);
            newest = newest.max(number);
            // What the default does anyway would only shadow other rules of the call.
            if rule.action == default {
                continue;
            }
            if let Some((carrier, carried)) = architecture.multiplexer(name) {
                cases.push((carrier, carried_case(rule, carried, architecture)));
            }
            if let Some(number) = number {
                cases.push((number, case(rule.action, rule.conditions.clone(), architecture)));
            }
        }
    }
    cases.sort_by_key(|(number, _)| *number);
    let same_number = cases.chunk_by(|one, next| one.0 == next.0);
    let calls = same_number.map(|same| (same[0].0, merge(same, &architecture.width))).collect();
    Verdicts { calls, newest }
}

/// The multiplexer has the call's number in the place of its first argument.
fn carried_case(rule: &Rule, carried: u64, architecture: &Architecture) -> Case {
    let number = Condition { index: 0, operator: SeccompCmpOp::Eq, value: carried };
    let others = rule.conditions.iter().filter(|condition| condition.index != 0).cloned();
    case(rule.action, std::iter::once(number).chain(others).collect(), architecture)
}

fn case(action: u32, mut conditions: Vec<Condition>, architecture: &Architecture) -> Case {
    conditions.retain(|condition| match condition.operator {
        SeccompCmpOp::MaskedEq(mask) => architecture.visible(mask) != 0,
        _ => true,
    });
    Case { conditions, action }
}

fn merge(same: &[(u32, Case)], width: &SeccompCmpArgLen) -> Verdict {
    if let Some((_, always)) = same.iter().find(|(_, case)| case.conditions.is_empty()) {
        return Verdict::Always(always.action);
    }
    Verdict::First(order(same.iter().map(|(_, case)| case), width))
}
