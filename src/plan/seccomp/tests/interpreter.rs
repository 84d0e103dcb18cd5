//! The kernel's side of a filter: what it takes, and what it makes of a call.
//!
//! As strict as `bpf_check_classic` and `seccomp_check_filter`, for the instructions that filters have.

use seccompiler::sock_filter;

/// `struct seccomp_data`
#[derive(Clone, Debug)]
pub struct Call {
    number: u32,
    audit: u32,
    args: [u64; 6],
}

pub struct Outcome {
    pub action: u32,
    /// Instructions executed.
    pub steps: usize,
}

impl Call {
    pub fn new(audit: u32, number: u32, args: &[u64]) -> Call {
        let mut all = [0; 6];
        all[..args.len()].copy_from_slice(args);
        Call { number, audit, args: all }
    }

    pub fn number(&self) -> u32 {
        self.number
    }

    pub fn audit(&self) -> u32 {
        self.audit
    }

    fn word(&self, offset: u32) -> u32 {
        let arg = |half: u32| (self.args[(half / 2) as usize] >> (half % 2 * 32)) as u32;
        match offset {
            0 => self.number,
            4 => self.audit,
            8 | 12 => 0,
            16..64 if offset.is_multiple_of(4) => arg((offset - 16) / 4),
            _ => panic!("load from offset {offset}"),
        }
    }
}

const LOAD: u16 = 0x20;
const AND: u16 = 0x54;
const RETURN: u16 = 0x06;
const JUMP: u16 = 0x05;
const IF_EQUAL: u16 = 0x15;
const IF_GREATER: u16 = 0x25;
const IF_NOT_LESS: u16 = 0x35;
const IF_BITS: u16 = 0x45;

/// Panic unless the kernel would load the program.
pub fn verify(program: &[sock_filter]) {
    assert!((1..=4096).contains(&program.len()), "{} instructions", program.len());
    let left_after = |at: usize| (program.len() - at - 1) as u32;
    for (at, instruction) in program.iter().enumerate() {
        let reach = match instruction.code {
            LOAD => {
                assert!(instruction.k < 64 && instruction.k.is_multiple_of(4), "load at {at}");
                0
            }
            AND | RETURN => 0,
            JUMP => instruction.k,
            IF_EQUAL | IF_GREATER | IF_NOT_LESS | IF_BITS => instruction.jt.max(instruction.jf).into(),
            code => panic!("instruction {code:#x} at {at}"),
        };
        assert!(instruction.code == RETURN || reach < left_after(at), "jump out of the program at {at}");
    }
    assert_eq!(program.last().map(|last| last.code), Some(RETURN), "runs off the end");
}

pub fn run(program: &[sock_filter], call: &Call) -> Outcome {
    let (mut accumulator, mut at, mut steps) = (0, 0, 0);
    loop {
        let sock_filter { code, jt, jf, k } = program[at];
        at += 1;
        steps += 1;
        let holds = match code {
            LOAD => {
                accumulator = call.word(k);
                continue;
            }
            AND => {
                accumulator &= k;
                continue;
            }
            RETURN => return Outcome { action: k, steps },
            JUMP => {
                at += k as usize;
                continue;
            }
            IF_EQUAL => accumulator == k,
            IF_GREATER => accumulator > k,
            IF_NOT_LESS => accumulator >= k,
            IF_BITS => accumulator & k != 0,
            _ => panic!("instruction {code:#x} at {}", at - 1),
        };
        at += usize::from(if holds { jt } else { jf });
    }
}
