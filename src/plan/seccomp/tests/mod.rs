//! Filters are run, not read: `interpreter.rs` plays the kernel.
//!
//! `words` takes the tables row by row, `merging` and `frame` the program's two halves, `profiles` what
//! engines send, `live` the kernel itself, `differential` libseccomp.

#![allow(clippy::disallowed_methods, reason = "the kernel and libseccomp are asked")]

mod differential;
mod errors;
mod frame;
mod generator;
mod interpreter;
mod live;
mod merging;
mod profiles;
mod words;

use serde_json::{Value, json};

use super::machine::{AARCH64, Architecture, RISCV64, X86_64};
use super::*;
use interpreter::Call;

const ALLOW: u32 = libc::SECCOMP_RET_ALLOW;
const LOG: u32 = libc::SECCOMP_RET_LOG;
const TRAP: u32 = libc::SECCOMP_RET_TRAP;
const KILL: u32 = libc::SECCOMP_RET_KILL_THREAD;
const EPERM: u32 = errno(libc::EPERM);
const ENOSYS: u32 = errno(libc::ENOSYS);

const fn errno(number: i32) -> u32 {
    libc::SECCOMP_RET_ERRNO | number as u32
}

/// Every flag, as a current kernel has them.
const ALL_FLAGS: u64 = 0x3f;

/// What a kernel that knows these flags makes of a profile.
fn on(kernel_flags: u64) -> Wishes<'static> {
    Wishes { kernel_flags, ..Wishes::default() }
}

fn parse(profile: Value) -> LinuxSeccomp {
    serde_json::from_value(profile).expect("a profile")
}

/// The filter of a profile on an x86-64 machine, whatever this one is.
fn compile(profile: Value) -> Filter {
    compile_for(profile, X86_64)
}

fn compile_for(profile: Value, family: &[Architecture]) -> Filter {
    let filter = plan_for(&parse(profile), &on(ALL_FLAGS), family).expect("a filter");
    interpreter::verify(&filter.program);
    filter
}

fn refusal(profile: Value) -> String {
    plan_for(&parse(profile), &on(ALL_FLAGS), X86_64).expect_err("a refusal").to_string()
}

/// A profile which forbids everything but `rules`.
fn forbidding(rules: Value) -> Value {
    json!({"defaultAction": "SCMP_ACT_ERRNO", "syscalls": rules})
}

fn architecture(family: &'static [Architecture], name: &str) -> &'static Architecture {
    family.iter().find(|architecture| architecture.name == name).expect("an architecture")
}

/// A call by name, as a program of that architecture makes it.
fn call(family: &'static [Architecture], architecture_name: &str, name: &str, args: &[u64]) -> Call {
    let architecture = architecture(family, architecture_name);
    Call::new(architecture.audit, (architecture.number)(name).expect("a call"), args)
}

/// What an x86-64 program gets.
fn native(filter: &Filter, name: &str, args: &[u64]) -> u32 {
    interpreter::run(&filter.program, &call(X86_64, "SCMP_ARCH_X86_64", name, args)).action
}

/// What a program of another architecture of the same machine gets.
fn foreign(filter: &Filter, architecture: &str, name: &str, args: &[u64]) -> u32 {
    interpreter::run(&filter.program, &call(X86_64, architecture, name, args)).action
}
