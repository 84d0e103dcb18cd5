//! Architectures, numbers and jumps.

use super::*;
use interpreter::run;

const X86_64_AUDIT: u32 = 0xc000_003e;
const X86_AUDIT: u32 = 0x4000_0003;
const X32_BIT: u32 = 0x4000_0000;

fn reading(architectures: Value) -> Filter {
    let mut profile = forbidding(json!([
        {"names": ["read", "close_range"], "action": "SCMP_ACT_ALLOW"}
    ]));
    profile["architectures"] = architectures;
    compile(profile)
}

fn verdict(filter: &Filter, audit: u32, number: u32) -> u32 {
    run(&filter.program, &Call::new(audit, number, &[])).action
}

#[test]
fn the_native_architecture_needs_no_naming() {
    for architectures in [Value::Null, json!([]), json!(["SCMP_ARCH_X86"]), json!(["SCMP_ARCH_NATIVE"])] {
        assert_eq!(native(&reading(architectures), "read", &[]), ALLOW);
    }
}

#[test]
fn an_architecture_that_is_not_named_is_killed() {
    let filter = reading(json!(["SCMP_ARCH_X86_64"]));
    assert_eq!(foreign(&filter, "SCMP_ARCH_X86", "read", &[]), KILL);
    assert_eq!(foreign(&filter, "SCMP_ARCH_X32", "read", &[]), KILL);
    let filter = reading(json!(["SCMP_ARCH_X32"]));
    assert_eq!(foreign(&filter, "SCMP_ARCH_X86", "read", &[]), KILL);
    assert_eq!(foreign(&filter, "SCMP_ARCH_X32", "read", &[]), ALLOW);
}

#[test]
fn an_architecture_that_cannot_run_here_changes_nothing() {
    let without = reading(json!(["SCMP_ARCH_X86"]));
    let with = reading(json!(["SCMP_ARCH_S390X", "SCMP_ARCH_AARCH64", "SCMP_ARCH_X86", "SCMP_ARCH_SHEB"]));
    assert_eq!(with.program, without.program);
}

#[test]
fn a_call_that_a_tracer_skipped_gets_the_default() {
    assert_eq!(verdict(&reading(json!([])), X86_64_AUDIT, u32::MAX), EPERM);
    assert_eq!(verdict(&reading(json!([])), X86_64_AUDIT, u32::MAX - 1), KILL);
}

#[test]
fn calls_newer_than_the_profile_do_not_exist() {
    let filter = reading(json!(["SCMP_ARCH_X86", "SCMP_ARCH_X32"]));
    for (audit, first) in [(X86_64_AUDIT, 0), (X86_64_AUDIT, X32_BIT), (X86_AUDIT, 0)] {
        assert_eq!(verdict(&filter, audit, first + 435), EPERM);
        assert_eq!(verdict(&filter, audit, first + 436), ALLOW);
        assert_eq!(verdict(&filter, audit, first + 437), ENOSYS);
        assert_eq!(verdict(&filter, audit, first + 0x3fff_ffff), ENOSYS);
    }
}

#[test]
fn a_rule_for_the_default_action_still_tells_the_age_of_a_profile() {
    let filter = compile(forbidding(json!([
        {"names": ["read"], "action": "SCMP_ACT_ALLOW"}, {"names": ["openat2"], "action": "SCMP_ACT_ERRNO"}
    ])));
    assert_eq!(verdict(&filter, X86_64_AUDIT, 437), EPERM);
    assert_eq!(verdict(&filter, X86_64_AUDIT, 438), ENOSYS);
}

#[test]
fn permissive_profiles_leave_newer_calls_alone() {
    for action in ["SCMP_ACT_ALLOW", "SCMP_ACT_LOG", "SCMP_ACT_TRACE"] {
        let rules = json!([{"names": ["close_range"], "action": "SCMP_ACT_KILL"}]);
        let filter = compile(json!({"defaultAction": action, "syscalls": rules}));
        assert_eq!(verdict(&filter, X86_64_AUDIT, 1000), native(&filter, "read", &[]), "{action}");
    }
    for action in ["SCMP_ACT_KILL", "SCMP_ACT_KILL_PROCESS", "SCMP_ACT_TRAP"] {
        let rules = json!([{"names": ["close_range"], "action": "SCMP_ACT_ALLOW"}]);
        let filter = compile(json!({"defaultAction": action, "syscalls": rules}));
        assert_eq!(verdict(&filter, X86_64_AUDIT, 1000), ENOSYS, "{action}");
    }
}

#[test]
fn a_profile_without_rules_is_only_its_default() {
    assert_eq!(verdict(&compile(forbidding(json!([]))), X86_64_AUDIT, 1000), EPERM);
    let filter = compile(json!({"defaultAction": "SCMP_ACT_KILL_PROCESS"}));
    assert_eq!(verdict(&filter, X86_64_AUDIT, 0), libc::SECCOMP_RET_KILL_PROCESS);
}

#[test]
fn jumps_reach_over_long_sections() {
    let names = ["openat", "mkdirat", "readlinkat", "fchmodat", "unlinkat", "linkat"];
    let conditions: Vec<Value> =
        (0..40_u64).map(|value| json!({"index": 1, "value": value * 3, "op": "SCMP_CMP_EQ"})).collect();
    let mut profile = forbidding(json!([{"names": names, "action": "SCMP_ACT_ALLOW", "args": conditions}]));
    profile["architectures"] = json!(["SCMP_ARCH_X86"]);
    let filter = compile(profile);
    assert!(filter.program.len() > 7 * 255, "{} instructions", filter.program.len());
    for name in names {
        for arg in 0..121 {
            let expected = if arg % 3 == 0 && arg < 120 { ALLOW } else { EPERM };
            assert_eq!(native(&filter, name, &[0, arg]), expected, "{name} {arg}");
            assert_eq!(foreign(&filter, "SCMP_ARCH_X86", name, &[0, arg]), expected, "{name} {arg}");
        }
    }
    assert_eq!(native(&filter, "read", &[]), EPERM);
}
