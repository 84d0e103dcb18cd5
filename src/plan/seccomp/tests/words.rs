//! Every action, operator, flag and architecture of the spec.

use super::*;
use crate::plan::seccomp::words::{ACTIONS, FLAGS, OPERATORS};

fn word(value: impl serde::Serialize) -> String {
    serde_json::to_value(value).unwrap().as_str().unwrap().to_owned()
}

#[test]
fn every_word_is_written_as_in_the_spec() {
    assert!(ACTIONS.iter().all(|action| word(action.spec) == action.name));
    assert!(OPERATORS.iter().all(|operator| word(operator.spec) == operator.name));
    assert!(FLAGS.iter().all(|flag| word(flag.spec) == flag.name));
    let architectures = || X86_64.iter().chain(AARCH64).chain(RISCV64);
    assert!(architectures().all(|architecture| word(architecture.spec) == architecture.name));
    let listed = (ACTIONS.len(), OPERATORS.len(), FLAGS.len(), architectures().count());
    assert_eq!(listed, (9, 7, 4, 6));
}

#[test]
fn every_action_tells_the_kernel_its_own_word() {
    let expected = [
        ("SCMP_ACT_ALLOW", 0x7fff_0000),
        ("SCMP_ACT_ERRNO", 0x0005_0001),
        ("SCMP_ACT_KILL", 0),
        ("SCMP_ACT_KILL_PROCESS", 0x8000_0000),
        ("SCMP_ACT_KILL_THREAD", 0),
        ("SCMP_ACT_LOG", 0x7ffc_0000),
        ("SCMP_ACT_NOTIFY", 0x7fc0_0000),
        ("SCMP_ACT_TRACE", 0x7ff0_0001),
        ("SCMP_ACT_TRAP", 0x0003_0000),
    ];
    for (action, value) in expected {
        let filter = compile(json!({
            "defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 99, "listenerPath": "/run/agent",
            "syscalls": [{"names": ["mkdir"], "action": action}]
        }));
        assert_eq!(native(&filter, "mkdir", &[]), value, "{action}");
        assert_eq!(native(&filter, "chdir", &[]), errno(99));
    }
}

#[test]
fn each_rule_returns_its_own_errno() {
    let filter = compile(json!({
        "defaultAction": "SCMP_ACT_TRACE", "defaultErrnoRet": 7,
        "syscalls": [
            {"names": ["mkdir"], "action": "SCMP_ACT_ERRNO", "errnoRet": 30},
            {"names": ["rmdir"], "action": "SCMP_ACT_ERRNO", "errnoRet": 0},
            {"names": ["chmod"], "action": "SCMP_ACT_TRACE", "errnoRet": 65535}
        ]
    }));
    assert_eq!(native(&filter, "mkdir", &[]), errno(30));
    assert_eq!(native(&filter, "rmdir", &[]), errno(0));
    assert_eq!(native(&filter, "chmod", &[]), libc::SECCOMP_RET_TRACE | 65535);
    assert_eq!(native(&filter, "chdir", &[]), libc::SECCOMP_RET_TRACE | 7);
}

/// Values whose halves differ from each other in one or both.
const VALUES: [u64; 12] = [
    0,
    1,
    2,
    0x7fff_ffff,
    0xffff_ffff,
    0x1_0000_0000,
    0x1_0000_0001,
    0x2_0000_0000,
    0x7fff_ffff_ffff_ffff,
    0xffff_ffff_0000_0001,
    u64::MAX - 1,
    u64::MAX,
];

type Holds = fn(u64, u64) -> bool;

const COMPARISONS: [(&str, Holds); 6] = [
    ("SCMP_CMP_NE", |arg, value| arg != value),
    ("SCMP_CMP_LT", |arg, value| arg < value),
    ("SCMP_CMP_LE", |arg, value| arg <= value),
    ("SCMP_CMP_EQ", |arg, value| arg == value),
    ("SCMP_CMP_GE", |arg, value| arg >= value),
    ("SCMP_CMP_GT", |arg, value| arg > value),
];

/// A profile for all three architectures with one condition on one argument of ioctl(2).
fn comparing(arg: Value) -> Filter {
    compile(json!({
        "defaultAction": "SCMP_ACT_ERRNO",
        "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"],
        "syscalls": [{"names": ["ioctl"], "action": "SCMP_ACT_ALLOW", "args": [arg]}]
    }))
}

#[test]
fn every_operator_compares_64_bits_of_every_argument() {
    for (operator, holds) in COMPARISONS {
        for (at, value) in VALUES.into_iter().enumerate() {
            let index = at % 6;
            let filter = comparing(json!({"index": index, "value": value, "op": operator}));
            for arg in VALUES {
                let mut args = [0x5555_5555_5555_5555; 6];
                args[index] = arg;
                let expected = if holds(arg, value) { ALLOW } else { EPERM };
                assert_eq!(native(&filter, "ioctl", &args), expected, "{arg:#x} {operator} {value:#x}");
            }
        }
    }
}

#[test]
fn programs_with_32_bits_are_compared_in_32_bits() {
    for (operator, holds) in COMPARISONS {
        for value in VALUES {
            let filter = comparing(json!({"index": 1, "value": value, "op": operator}));
            for arg in VALUES {
                let seen = |value| u64::from(value as u32);
                let expected = if holds(seen(arg), seen(value)) { ALLOW } else { EPERM };
                for architecture in ["SCMP_ARCH_X86", "SCMP_ARCH_X32"] {
                    let verdict = foreign(&filter, architecture, "ioctl", &[0, arg]);
                    assert_eq!(verdict, expected, "{architecture}: {arg:#x} {operator} {value:#x}");
                }
            }
        }
    }
}

#[test]
fn masked_equality_compares_the_bits_under_the_mask() {
    for mask in VALUES {
        for value in VALUES {
            let arg = json!({"index": 2, "value": mask, "valueTwo": value, "op": "SCMP_CMP_MASKED_EQ"});
            let filter = comparing(arg);
            for arg in VALUES {
                let expected = if arg & mask == value & mask { ALLOW } else { EPERM };
                assert_eq!(native(&filter, "ioctl", &[0, 0, arg]), expected, "{arg:#x} & {mask:#x}");
                let expected = if (arg & mask) as u32 == (value & mask) as u32 { ALLOW } else { EPERM };
                assert_eq!(foreign(&filter, "SCMP_ARCH_X86", "ioctl", &[0, 0, arg]), expected);
            }
        }
    }
}

fn flags(words: Value) -> u64 {
    compile(json!({"defaultAction": "SCMP_ACT_ALLOW", "flags": words})).flags
}

#[test]
fn flags_are_passed_and_tsync_needs_no_telling() {
    assert_eq!(flags(json!([])), 0);
    assert_eq!(flags(json!(["SECCOMP_FILTER_FLAG_TSYNC"])), 0);
    assert_eq!(flags(json!(["SECCOMP_FILTER_FLAG_LOG"])), libc::SECCOMP_FILTER_FLAG_LOG);
    let both = json!(["SECCOMP_FILTER_FLAG_LOG", "SECCOMP_FILTER_FLAG_SPEC_ALLOW"]);
    assert_eq!(flags(both), libc::SECCOMP_FILTER_FLAG_LOG | libc::SECCOMP_FILTER_FLAG_SPEC_ALLOW);
}

#[test]
fn without_flags_the_speculation_mitigation_is_left_to_the_kernel_that_can() {
    let profile = parse(json!({"defaultAction": "SCMP_ACT_ALLOW"}));
    let flags = |kernel| plan_for(&profile, &on(kernel), X86_64).unwrap().flags;
    assert_eq!(flags(ALL_FLAGS), libc::SECCOMP_FILTER_FLAG_SPEC_ALLOW);
    assert_eq!(flags(0), 0);
}

#[test]
fn waiting_killably_without_a_listener_is_ignored_with_a_warning() {
    const WORD: &str = "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV";
    let mut profile = json!({"defaultAction": "SCMP_ACT_ALLOW", "flags": [WORD], "listenerPath": "/a"});
    let filter = compile(profile.clone());
    assert_eq!(filter.flags, 0);
    assert_eq!(filter.warnings, ["linux.seccomp.flags[0]: no rule has SCMP_ACT_NOTIFY: ignored"]);
    profile["syscalls"] = json!([{"names": ["mkdir"], "action": "SCMP_ACT_NOTIFY"}]);
    let filter = compile(profile);
    let listening = libc::SECCOMP_FILTER_FLAG_NEW_LISTENER;
    assert_eq!(filter.flags, libc::SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV | listening);
    assert_eq!(filter.warnings, [""; 0]);
}

#[test]
fn every_family_filters_its_elders() {
    let families: [(&'static [Architecture], &[&str]); 3] = [
        (X86_64, &["SCMP_ARCH_X86_64", "SCMP_ARCH_X32", "SCMP_ARCH_X86"]),
        (AARCH64, &["SCMP_ARCH_AARCH64", "SCMP_ARCH_ARM"]),
        (RISCV64, &["SCMP_ARCH_RISCV64"]),
    ];
    for (family, names) in families {
        let rules = json!([
            {"names": ["mkdirat"], "action": "SCMP_ACT_ALLOW"},
            {"names": ["execve"], "action": "SCMP_ACT_LOG",
             "args": [{"index": 0, "value": 7, "op": "SCMP_CMP_GE"}]}
        ]);
        let mut profile = forbidding(rules);
        profile["architectures"] = json!(names);
        let filter = compile_for(profile, family);
        for name in names {
            let verdict = |call_name, args| {
                interpreter::run(&filter.program, &call(family, name, call_name, args)).action
            };
            assert_eq!(verdict("mkdirat", &[]), ALLOW, "{name}");
            assert_eq!(verdict("execve", &[7]), LOG, "{name}");
            assert_eq!(verdict("execve", &[6]), EPERM, "{name}");
            assert_eq!(verdict("chdir", &[]), EPERM, "{name}");
        }
    }
}

#[test]
fn names_stand_for_the_numbers_of_their_architecture() {
    let number = |family, architecture_name, name| (architecture(family, architecture_name).number)(name);
    assert_eq!(number(X86_64, "SCMP_ARCH_X86_64", "rt_sigaction"), Some(13));
    assert_eq!(number(X86_64, "SCMP_ARCH_X86_64", "file_setattr"), Some(469));
    assert_eq!(number(X86_64, "SCMP_ARCH_X86_64", "chown32"), None);
    assert_eq!(number(X86_64, "SCMP_ARCH_X32", "rt_sigaction"), Some(0x4000_0200));
    assert_eq!(number(X86_64, "SCMP_ARCH_X32", "read"), Some(0x4000_0000));
    assert_eq!(number(X86_64, "SCMP_ARCH_X32", "epoll_ctl_old"), None);
    assert_eq!(number(X86_64, "SCMP_ARCH_X86", "chown32"), Some(212));
    assert_eq!(number(X86_64, "SCMP_ARCH_X86", "socket"), Some(359));
    assert_eq!(number(AARCH64, "SCMP_ARCH_AARCH64", "newfstatat"), Some(79));
    assert_eq!(number(AARCH64, "SCMP_ARCH_ARM", "set_tls"), Some(0xf_0005));
    assert_eq!(number(RISCV64, "SCMP_ARCH_RISCV64", "riscv_flush_icache"), Some(259));
    assert_eq!(number(RISCV64, "SCMP_ARCH_RISCV64", ""), None);
}
