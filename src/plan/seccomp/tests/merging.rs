//! Several rules for one call.

use super::*;

fn rule(action: &str, args: Value) -> Value {
    json!({"names": ["ioctl"], "action": action, "args": args})
}

fn condition(index: usize, operator: &str, value: u64) -> Value {
    json!({"index": index, "op": format!("SCMP_CMP_{operator}"), "value": value})
}

#[test]
fn conditions_on_different_arguments_must_all_hold() {
    let both = json!([condition(1, "EQ", 5), condition(0, "GT", 2)]);
    let filter = compile(forbidding(json!([rule("SCMP_ACT_ALLOW", both)])));
    assert_eq!(native(&filter, "ioctl", &[3, 5]), ALLOW);
    assert_eq!(native(&filter, "ioctl", &[2, 5]), EPERM);
    assert_eq!(native(&filter, "ioctl", &[3, 6]), EPERM);
}

#[test]
fn two_conditions_on_one_argument_split_the_rule_into_alternatives() {
    let three = json!([condition(1, "EQ", 5), condition(1, "EQ", 6), condition(0, "EQ", 9)]);
    let filter = compile(forbidding(json!([rule("SCMP_ACT_ALLOW", three)])));
    assert_eq!(native(&filter, "ioctl", &[0, 5]), ALLOW);
    assert_eq!(native(&filter, "ioctl", &[0, 6]), ALLOW);
    assert_eq!(native(&filter, "ioctl", &[9, 0]), ALLOW);
    assert_eq!(native(&filter, "ioctl", &[0, 7]), EPERM);
}

#[test]
fn an_unconditional_rule_beats_conditional_ones_wherever_it_is_written() {
    let always = rule("SCMP_ACT_LOG", Value::Null);
    let sometimes = rule("SCMP_ACT_ALLOW", json!([condition(0, "EQ", 1)]));
    for rules in [[&always, &sometimes], [&sometimes, &always]] {
        let filter = compile(forbidding(json!(rules)));
        assert_eq!(native(&filter, "ioctl", &[1]), LOG);
    }
}

#[test]
fn the_first_of_two_unconditional_rules_wins() {
    let filter =
        compile(forbidding(json!([rule("SCMP_ACT_TRAP", json!([])), rule("SCMP_ACT_ALLOW", json!([]))])));
    assert_eq!(native(&filter, "ioctl", &[]), TRAP);
}

#[test]
fn a_rule_that_repeats_the_default_does_not_shadow_others() {
    let filter = compile(forbidding(json!([
        rule("SCMP_ACT_ERRNO", json!([])),
        rule("SCMP_ACT_ALLOW", json!([condition(0, "EQ", 1)]))
    ])));
    assert_eq!(native(&filter, "ioctl", &[1]), ALLOW);
}

#[test]
fn a_mask_without_bits_makes_a_rule_unconditional() {
    let high_half = json!({"index": 0, "op": "SCMP_CMP_MASKED_EQ", "value": 1_u64 << 40, "valueTwo": 0});
    let mut profile = forbidding(json!([
        rule("SCMP_ACT_ALLOW", json!([condition(0, "EQ", 1)])),
        rule("SCMP_ACT_LOG", json!([high_half]))
    ]));
    profile["architectures"] = json!(["SCMP_ARCH_X86"]);
    let filter = compile(profile);
    assert_eq!(native(&filter, "ioctl", &[1]), ALLOW);
    assert_eq!(native(&filter, "ioctl", &[1 << 40]), EPERM);
    assert_eq!(foreign(&filter, "SCMP_ARCH_X86", "ioctl", &[1]), LOG);
}

#[test]
fn overlapping_rules_are_tried_tightest_first() {
    let wide = rule("SCMP_ACT_LOG", json!([condition(0, "GE", 10)]));
    let tight = rule("SCMP_ACT_TRAP", json!([condition(0, "GE", 20)]));
    let exact = rule("SCMP_ACT_ALLOW", json!([condition(0, "EQ", 30)]));
    let later = rule("SCMP_ACT_KILL", json!([condition(2, "EQ", 7)]));
    for rules in [[&wide, &tight, &exact, &later], [&later, &exact, &tight, &wide]] {
        let filter = compile(forbidding(json!(rules)));
        assert_eq!(native(&filter, "ioctl", &[9]), EPERM);
        assert_eq!(native(&filter, "ioctl", &[19]), LOG);
        assert_eq!(native(&filter, "ioctl", &[29]), TRAP);
        assert_eq!(native(&filter, "ioctl", &[30]), ALLOW);
        assert_eq!(native(&filter, "ioctl", &[30, 0, 7]), KILL);
    }
}

const X86: &str = "SCMP_ARCH_X86";
const SOCKET: u64 = 1;
const ACCEPT: u64 = 5;
const SHMAT: u64 = 21;

fn on_x86(rules: Value) -> Filter {
    let mut profile = forbidding(rules);
    profile["architectures"] = json!([X86]);
    compile(profile)
}

#[test]
fn calls_carried_by_multiplexers_are_filtered_there_too() {
    let filter = on_x86(json!([{"names": ["socket", "accept", "shmat"], "action": "SCMP_ACT_ALLOW"}]));
    for (carrier, carried) in [("socketcall", SOCKET), ("socketcall", ACCEPT), ("ipc", SHMAT)] {
        assert_eq!(foreign(&filter, X86, carrier, &[carried]), ALLOW);
    }
    assert_eq!(foreign(&filter, X86, "socketcall", &[SHMAT]), EPERM);
    assert_eq!(foreign(&filter, X86, "socket", &[]), ALLOW);
}

#[test]
fn the_first_argument_of_a_carried_call_is_out_of_sight() {
    let rule = json!({"names": ["socket"], "action": "SCMP_ACT_ALLOW",
                      "args": [condition(0, "EQ", 2), condition(2, "EQ", 0)]});
    let filter = on_x86(json!([rule]));
    assert_eq!(foreign(&filter, X86, "socketcall", &[SOCKET, 16, 0]), ALLOW);
    assert_eq!(foreign(&filter, X86, "socketcall", &[SOCKET, 16, 1]), EPERM);
    assert_eq!(foreign(&filter, X86, "socket", &[16, 0, 0]), EPERM);
    assert_eq!(foreign(&filter, X86, "socket", &[2, 0, 0]), ALLOW);
}
