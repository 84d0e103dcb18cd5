//! What is refused, and in which words.

use super::*;

#[test]
fn an_errno_for_an_action_that_returns_none_is_refused() {
    assert_eq!(
        refusal(forbidding(json!([
            {"names": ["read"], "action": "SCMP_ACT_ALLOW"},
            {"names": ["write"], "action": "SCMP_ACT_KILL", "errnoRet": 1}
        ]))),
        "linux.seccomp.syscalls[1].errnoRet: SCMP_ACT_KILL returns no errno"
    );
    assert_eq!(
        refusal(json!({"defaultAction": "SCMP_ACT_LOG", "defaultErrnoRet": 0})),
        "linux.seccomp.defaultErrnoRet: SCMP_ACT_LOG returns no errno"
    );
}

#[test]
fn an_errno_that_would_change_the_action_is_refused() {
    assert_eq!(
        refusal(json!({"defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 65536})),
        "linux.seccomp.defaultErrnoRet: 65536 is not an errno"
    );
}

#[test]
fn a_seventh_argument_is_refused() {
    assert_eq!(
        refusal(forbidding(json!([{"names": ["read"], "action": "SCMP_ACT_ALLOW", "args": [
            {"index": 0, "value": 0, "op": "SCMP_CMP_EQ"}, {"index": 6, "value": 0, "op": "SCMP_CMP_EQ"}
        ]}]))),
        "linux.seccomp.syscalls[0].args[1].index: 6 is above 5"
    );
}

#[test]
fn unknown_words_are_refused_by_the_parser() {
    let profiles = [
        json!({"defaultAction": "SCMP_ACT_MAYBE"}),
        json!({"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_PDP11"]}),
        json!({"defaultAction": "SCMP_ACT_ALLOW", "flags": ["SECCOMP_FILTER_FLAG_NEW_LISTENER"]}),
        json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["read"], "action": "ALLOW"}]}),
    ];
    for profile in profiles {
        let error = serde_json::from_value::<LinuxSeccomp>(profile).expect_err("unknown");
        assert!(error.to_string().starts_with("unknown variant"), "{error}");
    }
}

#[test]
fn a_flag_that_the_kernel_does_not_know_is_refused() {
    const WORD: &str = "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV";
    let profile = parse(json!({"defaultAction": "SCMP_ACT_ALLOW", "flags": [WORD]}));
    let error = plan_for(&profile, &on(libc::SECCOMP_FILTER_FLAG_LOG), X86_64).unwrap_err().to_string();
    assert_eq!(error, format!("linux.seccomp.flags[0]: this kernel does not know {WORD}"));
}

fn notifying(name: &str) -> Value {
    forbidding(json!([{"names": ["mkdir", name], "action": "SCMP_ACT_NOTIFY"}]))
}

#[test]
fn notifications_need_somebody_who_listens() {
    assert_eq!(
        refusal(notifying("chmod")),
        "linux.seccomp.listenerPath: required, because a rule has SCMP_ACT_NOTIFY"
    );
    let mut profile = notifying("chmod");
    profile["listenerPath"] = json!("/run/agent");
    let filter = compile(profile.clone());
    let mut listener = Listener { path: "/run/agent".into(), metadata: String::new() };
    assert_eq!(filter.listener, Some(listener.clone()));
    profile["listenerMetadata"] = json!("blue");
    "blue".clone_into(&mut listener.metadata);
    assert_eq!(compile(profile).listener, Some(listener));
}

#[test]
fn a_listener_that_no_rule_asks_for_is_not_made() {
    let filter = compile(json!({"defaultAction": "SCMP_ACT_ALLOW", "listenerPath": "/run/agent"}));
    assert_eq!(filter.listener, None);
    assert_eq!(filter.flags & libc::SECCOMP_FILTER_FLAG_NEW_LISTENER, 0);
}

#[test]
fn metadata_without_a_listener_is_refused() {
    assert_eq!(
        refusal(json!({"defaultAction": "SCMP_ACT_ALLOW", "listenerMetadata": "blue"})),
        "linux.seccomp.listenerMetadata: meaningless without listenerPath"
    );
}

#[test]
fn calls_that_hand_the_listener_over_cannot_wait_for_it() {
    assert_eq!(
        refusal(json!({"defaultAction": "SCMP_ACT_NOTIFY", "listenerPath": "/run/agent"})),
        "linux.seccomp.defaultAction: SCMP_ACT_NOTIFY cannot be the default action"
    );
    let mut profile = notifying("write");
    profile["listenerPath"] = json!("/run/agent");
    assert_eq!(refusal(profile), "linux.seccomp.syscalls[0]: SCMP_ACT_NOTIFY cannot be used for write");
    let mut profile = notifying("read");
    profile["listenerPath"] = json!("/run/agent");
    assert_eq!(native(&compile(profile), "read", &[]), libc::SECCOMP_RET_USER_NOTIF);
}

#[test]
fn unknown_names_are_ignored_with_one_warning() {
    let filter = compile(forbidding(json!([
        {"names": ["frobnicate", "mkdir", "chown32"], "action": "SCMP_ACT_ALLOW"},
        {"names": ["accept", "aerate", "frobnicate"], "action": "SCMP_ACT_ALLOW"}
    ])));
    assert_eq!(filter.warnings, ["linux.seccomp.syscalls: this machine has no aerate, frobnicate: ignored"]);
    assert_eq!(native(&filter, "mkdir", &[]), ALLOW);
}

#[test]
fn a_filter_longer_than_the_kernel_takes_is_refused() {
    let rule = |value| {
        json!({"names": ["ioctl"], "action": "SCMP_ACT_ALLOW",
                              "args": [{"index": 1, "value": value, "op": "SCMP_CMP_EQ"}]})
    };
    let rules = |count: u64| forbidding((0..count).map(rule).collect());
    let fitting = compile(rules(500));
    assert_eq!(native(&fitting, "ioctl", &[0, 499]), ALLOW);
    assert_eq!(native(&fitting, "ioctl", &[0, 500]), EPERM);
    let error = refusal(rules(1000));
    let length = error.strip_prefix("linux.seccomp: the filter needs ").expect(&error);
    assert!(length.ends_with(" instructions, the kernel takes 4096"), "{error}");
}

#[test]
fn a_strict_profile_names_only_calls_that_there_are() {
    let profile = parse(forbidding(json!([{"names": ["read", "flarp"], "action": "SCMP_ACT_ALLOW"}])));
    assert_eq!(plan_for(&profile, &on(ALL_FLAGS), X86_64).unwrap().warnings.len(), 1);
    let strict = Wishes { strict: true, ..on(ALL_FLAGS) };
    let error = plan_for(&profile, &strict, X86_64).unwrap_err().to_string();
    assert_eq!(
        error,
        "linux.seccomp.syscalls: this machine has no flarp, and run.oci.seccomp_fail_unknown_syscall is set"
    );
}

#[test]
fn a_receiver_listens_where_the_profile_names_nobody() {
    let receiver = Wishes { receiver: Some(Path::new("/run/agent")), ..on(ALL_FLAGS) };
    let of = |profile: Value| plan_for(&parse(profile), &receiver, X86_64).unwrap().listener;
    assert_eq!(of(notifying("mkdir")).unwrap().path, Path::new("/run/agent"));
    let mut named = notifying("mkdir");
    named["listenerPath"] = json!("/run/own");
    assert_eq!(of(named).unwrap().path, Path::new("/run/own"));
    assert_eq!(of(forbidding(json!([]))), None);
}

#[test]
fn a_program_that_comes_compiled_is_taken_as_it_is() {
    let profile = parse(json!({"defaultAction": "SCMP_ACT_KILL", "flags": ["SECCOMP_FILTER_FLAG_LOG"]}));
    let filter = plan_raw("BgAAAAAA/38=", Some(&profile), &on(ALL_FLAGS)).unwrap();
    assert_eq!((filter.program.len(), filter.flags), (1, libc::SECCOMP_FILTER_FLAG_LOG));
    let receiver = Wishes { receiver: Some(Path::new("/run/agent")), ..on(ALL_FLAGS) };
    let asked = plan_raw("BgAAAAAA/38=", None, &receiver).unwrap();
    assert_eq!(asked.listener.unwrap().path, Path::new("/run/agent"));
    assert_ne!(asked.flags & libc::SECCOMP_FILTER_FLAG_NEW_LISTENER, 0);
}
