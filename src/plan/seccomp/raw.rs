//! A filter that comes compiled: instructions in base64, as the kernel takes them (crun's `run.oci.seccomp_bpf_data`).
//!
//! Pure. The kernel checks the program when it is loaded.

use anyhow::{Result, anyhow, ensure};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use seccompiler::sock_filter;

use super::LONGEST_PROGRAM;

/// Code, two jumps and a constant: `struct sock_filter` (linux/filter.h), in the order of bytes of this machine.
const INSTRUCTION: usize = 8;

pub fn program(text: &str) -> Result<Vec<sock_filter>> {
    let bytes = BASE64_STANDARD.decode(text.trim());
    let bytes = bytes.map_err(|error| anyhow!("is not base64: {error}"))?;
    let count = bytes.len() / INSTRUCTION;
    let whole = bytes.len().is_multiple_of(INSTRUCTION) && (1..=LONGEST_PROGRAM).contains(&count);
    ensure!(whole, "has {} bytes, which are not 1 to {LONGEST_PROGRAM} instructions", bytes.len());
    let (instructions, _) = bytes.as_chunks::<INSTRUCTION>();
    Ok(instructions
        .iter()
        .map(|&[code_0, code_1, jt, jf, k_0, k_1, k_2, k_3]| sock_filter {
            code: u16::from_ne_bytes([code_0, code_1]),
            jt,
            jf,
            k: u32::from_ne_bytes([k_0, k_1, k_2, k_3]),
        })
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instructions_are_read_as_the_kernel_reads_them() {
        // ret ALLOW, on a machine that counts from the low byte.
        let program = program("BgAAAAAA/38=\n").unwrap();
        assert_eq!((program.len(), program[0].code), (1, u16::from_ne_bytes([6, 0])));
        assert_eq!(program[0].k, u32::from_ne_bytes([0, 0, 0xff, 0x7f]));
    }

    #[test]
    fn what_is_no_program_is_refused() {
        assert!(format!("{:#}", program("!").unwrap_err()).starts_with("is not base64"));
        assert!(program("").unwrap_err().to_string().starts_with("has 0 bytes"));
        assert!(program("BgAAAAAA").unwrap_err().to_string().starts_with("has 6 bytes"));
    }
}
