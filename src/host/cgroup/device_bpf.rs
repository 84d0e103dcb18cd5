//! Device rules on v2: a BPF program on the group, which the kernel asks at every open(2) and mknod(2) of a device.
//!
//! Runs outside. The program is generated here from the reduced rules; `sys/bpf.rs` loads and attaches it.

use std::os::fd::AsFd;

use anyhow::{Context, Result};

use super::group::Group;
use crate::plan::device_rules::{Access, DeviceClass, DeviceRules, Exception, Verdict};
use crate::sys::bpf::{self, Instruction};

/// Put the rules in force. A program that is there is replaced in one step, or kept until ours is in force:
/// programs only ever deny together, so at no time is anything allowed that both forbid.
pub fn attach(group: &Group, rules: &DeviceRules) -> Result<()> {
    let words = |verb: &str| format!("{verb} the device program of {}", group.path().display());
    let cgroup = group.directory()?;
    let cgroup = cgroup.as_fd();
    let attached = bpf::device_programs(cgroup).with_context(|| words("look for"))?;
    if attached.is_empty() && rules.allow_everything() {
        return Ok(());
    }
    let old = attached
        .iter()
        .map(|id| bpf::program_by_id(*id))
        .collect::<Result<Vec<_>, _>>()
        .with_context(|| words("open"))?;
    let program = bpf::load_device_program(&program(rules)).with_context(|| words("load"))?;
    match old.as_slice() {
        [one] => bpf::attach_device_program(cgroup, program.as_fd(), Some(one.as_fd()))
            .with_context(|| words("replace")),
        several => {
            bpf::attach_device_program(cgroup, program.as_fd(), None).with_context(|| words("attach"))?;
            several.iter().try_for_each(|old| {
                bpf::detach_device_program(cgroup, old.as_fd()).with_context(|| words("detach"))
            })
        }
    }
}

// What the program keeps where. The kernel passes the context in R1 and takes the answer from R0.
const ANSWER: u8 = 0;
const CONTEXT: u8 = 1;
const ACCESS: u8 = 2;
const CLASS: u8 = 3;
const MAJOR: u8 = 4;
const MINOR: u8 = 5;

// `struct bpf_cgroup_dev_ctx`: access << 16 | class, then the numbers.
const OFFSET_ACCESS_TYPE: i16 = 0;
const OFFSET_MAJOR: i16 = 4;
const OFFSET_MINOR: i16 = 8;

// linux/bpf_common.h, linux/bpf.h.
const LOAD_WORD: u8 = 0x61;
const MOVE_REGISTER: u8 = 0xbf;
const MOVE: u8 = 0xb7;
const AND: u8 = 0x57;
const SHIFT_RIGHT: u8 = 0x77;
const JUMP: u8 = 0x05;
const JUMP_UNEQUAL: u8 = 0x56;
const JUMP_ANY_BIT: u8 = 0x46;
const EXIT: u8 = 0x95;

/// Compile: the exceptions of one class, those of the other, the default's answer, the exceptions' answer.
fn program(rules: &DeviceRules) -> Vec<Instruction> {
    let mut code = vec![
        instruction(LOAD_WORD, ACCESS, CONTEXT, OFFSET_ACCESS_TYPE, 0),
        instruction(MOVE_REGISTER, CLASS, ACCESS, 0, 0),
        instruction(AND, CLASS, 0, 0, 0xffff),
        instruction(SHIFT_RIGHT, ACCESS, 0, 0, 16),
        instruction(LOAD_WORD, MAJOR, CONTEXT, OFFSET_MAJOR, 0),
        instruction(LOAD_WORD, MINOR, CONTEXT, OFFSET_MINOR, 0),
    ];
    let mut matches = Vec::new();
    for (class, number) in [(DeviceClass::Block, 1), (DeviceClass::Character, 2)] {
        let mut section = Vec::new();
        for exception in rules.exceptions.iter().filter(|exception| exception.class == class) {
            section.extend(test(exception, rules.default));
            matches.push(code.len() + 1 + section.len());
            section.push(instruction(JUMP, 0, 0, 0, 0));
        }
        if !section.is_empty() {
            code.push(instruction(JUMP_UNEQUAL, CLASS, 0, section.len() as i16, number));
            code.extend(section);
        }
    }
    code.extend(answer(rules.default));
    // The verifier refuses what cannot be reached.
    if !matches.is_empty() {
        for at in matches {
            code[at].offset = (code.len() - at - 1) as i16;
        }
        code.extend(answer(match rules.default {
            Verdict::Allow => Verdict::Deny,
            Verdict::Deny => Verdict::Allow,
        }));
    }
    code
}

/// Go past the following jump unless the exception matches. As in the v1 controller an access is allowed by an
/// exception that has all of it, and denied by one that has any of it.
fn test(exception: &Exception, default: Verdict) -> Vec<Instruction> {
    let numbers = [(MAJOR, exception.major), (MINOR, exception.minor)];
    let mut tests: Vec<Instruction> = numbers
        .into_iter()
        .filter_map(|(register, number)| {
            Some(instruction(JUMP_UNEQUAL, register, 0, 0, number?.cast_signed()))
        })
        .collect();
    let bits = i32::from(exception.access.bits());
    if exception.access != Access::ALL {
        match default {
            Verdict::Deny => {
                tests.push(instruction(JUMP_ANY_BIT, ACCESS, 0, 0, i32::from(Access::ALL.bits()) & !bits));
            }
            Verdict::Allow => {
                // Over the jump that leaves.
                tests.push(instruction(JUMP_ANY_BIT, ACCESS, 0, 1, bits));
                tests.push(instruction(JUMP, 0, 0, 0, 0));
            }
        }
    }
    let length = tests.len();
    for (at, test) in tests.iter_mut().enumerate() {
        if test.offset == 0 {
            test.offset = (length - at) as i16;
        }
    }
    tests
}

fn answer(verdict: Verdict) -> [Instruction; 2] {
    let allowed = i32::from(verdict == Verdict::Allow);
    [instruction(MOVE, ANSWER, 0, 0, allowed), instruction(EXIT, 0, 0, 0, 0)]
}

fn instruction(code: u8, destination: u8, source: u8, offset: i16, immediate: i32) -> Instruction {
    Instruction { code, registers: source << 4 | destination, offset, immediate }
}
