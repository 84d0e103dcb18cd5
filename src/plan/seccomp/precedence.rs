//! In which order the conditional rules of one system call are tried.
//!
//! Pure. Profiles depend on the order that libseccomp's tree gives to rules, which is not the one they
//! are written in: later arguments before earlier ones, equality before bounds, tighter bounds before
//! wider ones, and the written order only where none of these tells. The tree compares halves of
//! arguments, high before low, since the kernel's machine has 32 bits; rules that begin with the same
//! halves stay together.

use seccompiler::{SeccompCmpArgLen, SeccompCmpOp};

use super::rules::{Case, Condition};

/// The cases as they are tried, each once.
pub fn order<'a>(written: impl Iterator<Item = &'a Case>, width: &SeccompCmpArgLen) -> Vec<Case> {
    let mut ordered: Vec<(Vec<Half>, &Case)> = Vec::new();
    for case in written {
        if !ordered.iter().any(|(_, other)| *other == case) {
            let halves: Vec<Half> =
                case.conditions.iter().flat_map(|condition| halves(condition, width)).collect();
            ordered.insert(place(&halves, 0, &ordered), (halves, case));
        }
    }
    ordered.into_iter().map(|(_, case)| case.clone()).collect()
}

/// Half of a condition, as a node of the tree.
#[derive(PartialEq)]
struct Half {
    /// Argument, kind of test, and value (for a bound, how tight it is): the greatest goes first.
    rank: (u8, u8, u32),
    mask: Option<u32>,
}

fn halves(condition: &Condition, width: &SeccompCmpArgLen) -> impl Iterator<Item = Half> {
    let index = condition.index;
    let (kind, value, mask) = match condition.operator {
        SeccompCmpOp::MaskedEq(mask) => (2, condition.value & mask, Some(mask)),
        SeccompCmpOp::Eq | SeccompCmpOp::Ne => (2, condition.value, None),
        SeccompCmpOp::Le | SeccompCmpOp::Lt => (1, !condition.value, None),
        SeccompCmpOp::Ge | SeccompCmpOp::Gt => (0, condition.value, None),
    };
    let shifts: &[u32] = match width {
        SeccompCmpArgLen::Dword => &[0],
        SeccompCmpArgLen::Qword => &[32, 0],
    };
    shifts.iter().map(move |shift| Half {
        rank: (index, kind, (value >> shift) as u32),
        mask: mask.map(|mask| (mask >> shift) as u32),
    })
}

/// Where a case with these halves belongs among others that agree with it in the first `depth`.
fn place(halves: &[Half], depth: usize, others: &[(Vec<Half>, &Case)]) -> usize {
    let Some(half) = halves.get(depth) else {
        return others.len();
    };
    let mut at = 0;
    while let Some((first, _)) = others.get(at) {
        let theirs = first.get(depth);
        let together = others[at..].iter().take_while(|(other, _)| other.get(depth) == theirs).count();
        match theirs {
            Some(theirs) if theirs == half => {
                return at + place(halves, depth + 1, &others[at..at + together]);
            }
            Some(theirs) if theirs.rank < half.rank => return at,
            _ => at += together,
        }
    }
    at
}
