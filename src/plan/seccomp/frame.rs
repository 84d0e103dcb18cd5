//! One BPF program for all architectures: which architecture, which number, then the rules of that call.
//!
//! Pure. Numbers are cut into ranges with the same verdict and found by binary search; comparing
//! arguments is left to seccompiler. Every jump is relative and forward.

use anyhow::{Context, Result};
use seccompiler::{BpfProgram, SeccompCmpArgLen, SeccompCondition, SeccompRule, sock_filter};

use super::machine::Architecture;
use super::rules::{Case, Verdict};

/// Offsets in `struct seccomp_data`.
const NUMBER: u32 = 0;
const ARCHITECTURE: u32 = 4;

const LOAD: u16 = (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16;
const RETURN: u16 = (libc::BPF_RET | libc::BPF_K) as u16;
const JUMP: u16 = (libc::BPF_JMP | libc::BPF_JA) as u16;
const JUMP_IF_EQUAL: u16 = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
const JUMP_UNLESS_LESS: u16 = (libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K) as u16;

/// What is done with the calls of one architecture.
#[derive(Debug)]
pub struct Section<'a> {
    pub architecture: &'a Architecture,
    /// Sorted by number.
    pub calls: Vec<(u32, Verdict)>,
    /// What becomes of calls that are not among them.
    pub otherwise: Verdict,
    /// The first number from which on that changes, and to what.
    pub newer: Option<(u32, Verdict)>,
}

/// The numbers from `start` up to the next range.
struct Range<'a> {
    start: u32,
    verdict: &'a Verdict,
    width: &'a SeccompCmpArgLen,
}

/// The program for these architectures; those that share an `AUDIT_ARCH` are neighbours. Any other is
/// answered with `foreign`, a call whose rules do not match with `default`.
pub fn assemble(sections: &[Section], default: u32, foreign: u32) -> Result<BpfProgram> {
    let mut program = vec![statement(LOAD, ARCHITECTURE)];
    for same in sections.chunk_by(|one, next| one.architecture.audit == next.architecture.audit) {
        let test = program.len();
        program.push(statement(JUMP, 0));
        program.push(statement(LOAD, NUMBER));
        search(&ranges(same), default, &mut program)?;
        branch(&mut program, test, JUMP_IF_EQUAL, same[0].architecture.audit, Skip::Unless);
    }
    program.push(statement(RETURN, foreign));
    Ok(program)
}

fn ranges<'a>(sections: &'a [Section]) -> Vec<Range<'a>> {
    let mut ranges = Vec::with_capacity(512);
    for section in sections {
        let width = &section.architecture.width;
        let mut from = |start, verdict| mark(&mut ranges, Range { start, verdict, width });
        from(section.architecture.first, &section.otherwise);
        for (number, verdict) in &section.calls {
            from(*number, verdict);
            if let Some(next) = number.checked_add(1) {
                from(next, &section.otherwise);
            }
        }
        if let Some((number, verdict)) = &section.newer {
            from(*number, verdict);
        }
    }
    ranges
}

/// Append a range, in place of one that would be empty and not where the verdict stays the same.
fn mark<'a>(ranges: &mut Vec<Range<'a>>, range: Range<'a>) {
    ranges.pop_if(|last| last.start == range.start);
    if !ranges.last().is_some_and(|last| last.verdict == range.verdict && last.width == range.width) {
        ranges.push(range);
    }
}

/// Find the range of the number in the accumulator.
fn search(ranges: &[Range], default: u32, program: &mut BpfProgram) -> Result<()> {
    if let [only] = ranges {
        return decide(only, default, program);
    }
    let (below, above) = ranges.split_at(ranges.len() / 2);
    let test = program.len();
    program.push(statement(JUMP, 0));
    search(below, default, program)?;
    branch(program, test, JUMP_UNLESS_LESS, above[0].start, Skip::If);
    search(above, default, program)
}

fn decide(range: &Range, default: u32, program: &mut BpfProgram) -> Result<()> {
    match range.verdict {
        Verdict::Always(action) => program.push(statement(RETURN, *action)),
        Verdict::First(cases) => {
            for case in cases {
                program.extend(compare(case, range.width)?);
                program.push(statement(RETURN, case.action));
            }
            program.push(statement(RETURN, default));
        }
    }
    Ok(())
}

/// A program that ends behind its last instruction when all conditions hold, and one further when not.
fn compare(case: &Case, width: &SeccompCmpArgLen) -> Result<BpfProgram> {
    let conditions = case.conditions.iter().map(|condition| {
        SeccompCondition::new(condition.index, width.clone(), condition.operator.clone(), condition.value)
    });
    let conditions: Result<Vec<_>, _> = conditions.collect();
    let rule = SeccompRule::new(conditions.context("argument comparison")?).context("rule")?;
    Ok(rule.into())
}

enum Skip {
    If,
    Unless,
}

/// Turn the placeholder at `test` into a conditional jump over everything after it. Conditional jumps
/// reach 255 instructions: further away, they choose whether to take an unconditional one.
fn branch(program: &mut BpfProgram, test: usize, code: u16, k: u32, skip: Skip) {
    let distance = program.len() - test - 1;
    let (skipping, staying) = match u8::try_from(distance) {
        Ok(near) => (near, 0),
        Err(_) => {
            program.insert(test + 1, statement(JUMP, distance as u32));
            (0, 1)
        }
    };
    program[test] = match skip {
        Skip::If => sock_filter { code, jt: skipping, jf: staying, k },
        Skip::Unless => sock_filter { code, jt: staying, jf: skipping, k },
    };
}

fn statement(code: u16, k: u32) -> sock_filter {
    sock_filter { code, jt: 0, jf: 0, k }
}
