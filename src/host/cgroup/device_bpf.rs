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
    let program = bpf::load_device_program(&program(rules)?).with_context(|| words("load"))?;
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

/// A program whose jumps find their targets at the end.
#[derive(Default)]
struct Assembly {
    code: Vec<Instruction>,
    jumps: Vec<(usize, Label)>,
    /// Where each label stands.
    labels: Vec<usize>,
}

#[derive(Clone, Copy)]
struct Label(usize);

impl Assembly {
    fn add(&mut self, code: u8, destination: u8, source: u8, offset: i16, immediate: i32) {
        self.code.push(Instruction { code, registers: source << 4 | destination, offset, immediate });
    }

    fn jump(&mut self, code: u8, register: u8, immediate: i32, to: Label) {
        self.jumps.push((self.code.len(), to));
        self.add(code, register, 0, 0, immediate);
    }

    fn label(&mut self) -> Label {
        self.labels.push(usize::MAX);
        Label(self.labels.len() - 1)
    }

    fn put(&mut self, label: Label) {
        self.labels[label.0] = self.code.len();
    }

    fn answer(&mut self, verdict: Verdict) {
        self.add(MOVE, ANSWER, 0, 0, i32::from(verdict == Verdict::Allow));
        self.add(EXIT, 0, 0, 0, 0);
    }

    fn finish(mut self) -> Result<Vec<Instruction>> {
        for (at, label) in self.jumps {
            self.code[at].offset = i16::try_from(self.labels[label.0] - at - 1)
                .context("linux.resources.devices: too many rules for one BPF program")?;
        }
        Ok(self.code)
    }
}

/// Compile: the exceptions of one class, those of the other, the default's answer, the exceptions' answer.
fn program(rules: &DeviceRules) -> Result<Vec<Instruction>> {
    let mut assembly = Assembly::default();
    assembly.add(LOAD_WORD, ACCESS, CONTEXT, OFFSET_ACCESS_TYPE, 0);
    assembly.add(MOVE_REGISTER, CLASS, ACCESS, 0, 0);
    assembly.add(AND, CLASS, 0, 0, 0xffff);
    assembly.add(SHIFT_RIGHT, ACCESS, 0, 0, 16);
    assembly.add(LOAD_WORD, MAJOR, CONTEXT, OFFSET_MAJOR, 0);
    assembly.add(LOAD_WORD, MINOR, CONTEXT, OFFSET_MINOR, 0);
    let matched = assembly.label();
    for (class, number) in [(DeviceClass::Block, 1), (DeviceClass::Character, 2)] {
        let other_class = assembly.label();
        let mut exceptions = rules.exceptions.iter().filter(|exception| exception.class == class).peekable();
        if exceptions.peek().is_some() {
            assembly.jump(JUMP_UNEQUAL, CLASS, number, other_class);
        }
        for exception in exceptions {
            test(&mut assembly, exception, rules.default, matched);
        }
        assembly.put(other_class);
    }
    assembly.answer(rules.default);
    assembly.put(matched);
    // The verifier refuses what cannot be reached.
    if !rules.exceptions.is_empty() {
        assembly.answer(match rules.default {
            Verdict::Allow => Verdict::Deny,
            Verdict::Deny => Verdict::Allow,
        });
    }
    assembly.finish()
}

/// Leave for `matched` if the exception matches. As in the v1 controller an access is allowed by an exception that
/// has all of it, and denied by one that has any of it.
fn test(assembly: &mut Assembly, exception: &Exception, default: Verdict, matched: Label) {
    let next = assembly.label();
    for (register, number) in [(MAJOR, exception.major), (MINOR, exception.minor)] {
        if let Some(number) = number {
            assembly.jump(JUMP_UNEQUAL, register, number.cast_signed(), next);
        }
    }
    let bits = i32::from(exception.access.bits());
    match default {
        _ if exception.access == Access::ALL => assembly.jump(JUMP, 0, 0, matched),
        Verdict::Allow => assembly.jump(JUMP_ANY_BIT, ACCESS, bits, matched),
        Verdict::Deny => {
            assembly.jump(JUMP_ANY_BIT, ACCESS, i32::from(Access::ALL.bits()) & !bits, next);
            assembly.jump(JUMP, 0, 0, matched);
        }
    }
    assembly.put(next);
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::plan::device_rules;

    /// What the kernel asks: may this class, major and minor be accessed so?
    type Question = (DeviceClass, u32, u32, u8);

    /// Run the program as the kernel would.
    fn run(program: &[Instruction], (class, major, minor, access): Question) -> bool {
        let class = if class == DeviceClass::Block { 1 } else { 2 };
        let context = [u32::from(access) << 16 | class, major, minor];
        let (mut registers, mut at) = ([0u64; 11], 0);
        for _ in 0..program.len() {
            let step = program[at];
            let (to, from) = (usize::from(step.registers & 15), usize::from(step.registers >> 4));
            let immediate = i64::from(step.immediate).cast_unsigned();
            at += 1;
            let jumps = match step.code {
                LOAD_WORD => {
                    assert_eq!(from, usize::from(CONTEXT));
                    registers[to] = context[step.offset as usize / 4].into();
                    false
                }
                MOVE_REGISTER => {
                    registers[to] = registers[from];
                    false
                }
                MOVE => {
                    registers[to] = immediate;
                    false
                }
                AND => {
                    registers[to] &= immediate;
                    false
                }
                SHIFT_RIGHT => {
                    registers[to] >>= immediate;
                    false
                }
                JUMP => true,
                JUMP_UNEQUAL => registers[to] as u32 != immediate as u32,
                JUMP_ANY_BIT => registers[to] as u32 & immediate as u32 != 0,
                EXIT => return registers[0] == 1,
                unknown => panic!("instruction {unknown:#x}"),
            };
            if jumps {
                at += usize::try_from(step.offset).expect("a jump forward");
            }
        }
        panic!("the program does not end");
    }

    /// The v1 controller's own algorithm (security/device_cgroup.c).
    fn allowed(rules: &DeviceRules, (class, major, minor, access): Question) -> bool {
        let mut matching = rules.exceptions.iter().filter(|exception| {
            exception.class == class
                && exception.major.is_none_or(|number| number == major)
                && exception.minor.is_none_or(|number| number == minor)
        });
        match rules.default {
            Verdict::Deny => matching.any(|exception| access & !exception.access.bits() == 0),
            Verdict::Allow => !matching.any(|exception| access & exception.access.bits() != 0),
        }
    }

    fn rules(json: serde_json::Value) -> DeviceRules {
        device_rules::plan(&serde_json::from_value::<Vec<_>>(json).unwrap()).unwrap()
    }

    /// A number of few values, so that rules and questions meet.
    fn pick(random: &mut u64, choices: u64) -> u64 {
        *random = random.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (*random >> 33) % choices
    }

    fn some_rules(random: &mut u64) -> DeviceRules {
        let mut list = vec![json!({"allow": pick(random, 2) == 0})];
        for _ in 0..pick(random, 6) {
            let number = |random: &mut u64| [-1, 1, 3, 0xffff_ffff_i64][pick(random, 4) as usize];
            let mut rule = json!({
                "allow": pick(random, 2) == 0,
                "type": if pick(random, 2) == 0 { "c" } else { "b" },
                "major": number(random),
                "minor": number(random),
            });
            rule["access"] = ["r", "w", "m", "rw", "rm", "wm", "rwm"][pick(random, 7) as usize].into();
            let mut longer = list.clone();
            longer.push(rule);
            // Holes in wildcards are refused.
            if device_rules::plan(&serde_json::from_value::<Vec<_>>(longer.clone().into()).unwrap()).is_ok() {
                list = longer;
            }
        }
        rules(list.into())
    }

    #[test]
    fn programs_answer_as_the_v1_controller_does() {
        let random = &mut 1;
        for _ in 0..500 {
            let rules = some_rules(random);
            let program = program(&rules).unwrap();
            for class in [DeviceClass::Character, DeviceClass::Block] {
                for (major, minor) in [(1, 1), (1, 3), (3, 1), (3, 3), (7, 9), (u32::MAX, 3), (1, u32::MAX)] {
                    for access in 1..=7 {
                        let question = (class, major, minor, access);
                        assert_eq!(
                            run(&program, question),
                            allowed(&rules, question),
                            "{question:?} of {rules:?}"
                        );
                    }
                }
            }
        }
    }

    #[test]
    fn every_instruction_can_be_reached() {
        let random = &mut 2;
        for _ in 0..500 {
            let program = program(&some_rules(random)).unwrap();
            let mut reached = vec![false; program.len()];
            let mut pending = vec![0];
            while let Some(at) = pending.pop() {
                if !std::mem::replace(&mut reached[at], true) && program[at].code != EXIT {
                    let target = at + 1 + program[at].offset as usize;
                    match program[at].code {
                        JUMP => pending.push(target),
                        JUMP_UNEQUAL | JUMP_ANY_BIT => pending.extend([at + 1, target]),
                        _ => pending.push(at + 1),
                    }
                }
            }
            assert!(!reached.contains(&false), "{program:?}");
        }
    }

    #[test]
    fn the_default_program_is_small() {
        let rules = rules(json!([{"allow": false, "access": "rwm"}]));
        assert!(program(&rules).unwrap().len() <= 48);
    }

    #[test]
    fn too_many_rules_are_refused() {
        let class = DeviceClass::Character;
        let exceptions = (0..20_000)
            .map(|minor| Exception { class, major: Some(300), minor: Some(minor), access: Access::MKNOD })
            .collect();
        let error = program(&DeviceRules { default: Verdict::Deny, exceptions }).unwrap_err().to_string();
        assert!(error.starts_with("linux.resources.devices: too many rules"), "{error}");
    }
}
