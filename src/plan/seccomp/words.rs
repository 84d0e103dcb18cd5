//! The words of `linux.seccomp` and what the kernel is told for them.
//!
//! Read by the planner and by `features`: what is listed here is what is understood. Architectures are
//! listed in `machine.rs`.

use oci_spec::runtime::{
    LinuxSeccompAction as SpecAction, LinuxSeccompArg, LinuxSeccompFilterFlag as SpecFlag,
    LinuxSeccompOperator as SpecOperator,
};
use seccompiler::SeccompCmpOp;

pub struct Action {
    pub spec: SpecAction,
    pub name: &'static str,
    /// `SECCOMP_RET_*`
    pub value: u32,
    /// Whether the low half of the value is the spec's `errnoRet`.
    pub takes_errno: bool,
}

pub const ACTIONS: &[Action] = &[
    action(SpecAction::ScmpActAllow, "SCMP_ACT_ALLOW", libc::SECCOMP_RET_ALLOW),
    Action {
        takes_errno: true,
        ..action(SpecAction::ScmpActErrno, "SCMP_ACT_ERRNO", libc::SECCOMP_RET_ERRNO)
    },
    action(SpecAction::ScmpActKill, "SCMP_ACT_KILL", libc::SECCOMP_RET_KILL_THREAD),
    action(SpecAction::ScmpActKillProcess, "SCMP_ACT_KILL_PROCESS", libc::SECCOMP_RET_KILL_PROCESS),
    action(SpecAction::ScmpActKillThread, "SCMP_ACT_KILL_THREAD", libc::SECCOMP_RET_KILL_THREAD),
    action(SpecAction::ScmpActLog, "SCMP_ACT_LOG", libc::SECCOMP_RET_LOG),
    action(SpecAction::ScmpActNotify, "SCMP_ACT_NOTIFY", libc::SECCOMP_RET_USER_NOTIF),
    Action {
        takes_errno: true,
        ..action(SpecAction::ScmpActTrace, "SCMP_ACT_TRACE", libc::SECCOMP_RET_TRACE)
    },
    action(SpecAction::ScmpActTrap, "SCMP_ACT_TRAP", libc::SECCOMP_RET_TRAP),
];

const fn action(spec: SpecAction, name: &'static str, value: u32) -> Action {
    Action { spec, name, value, takes_errno: false }
}

pub fn action_of(spec: SpecAction) -> &'static Action {
    ACTIONS.iter().find(|action| action.spec == spec).expect("every action is listed")
}

pub struct Operator {
    pub spec: SpecOperator,
    pub name: &'static str,
    /// The comparison, and what the argument is compared with.
    pub comparison: fn(&LinuxSeccompArg) -> (SeccompCmpOp, u64),
}

pub const OPERATORS: &[Operator] = &[
    Operator {
        spec: SpecOperator::ScmpCmpEq,
        name: "SCMP_CMP_EQ",
        comparison: |arg| (SeccompCmpOp::Eq, arg.value()),
    },
    Operator {
        spec: SpecOperator::ScmpCmpGe,
        name: "SCMP_CMP_GE",
        comparison: |arg| (SeccompCmpOp::Ge, arg.value()),
    },
    Operator {
        spec: SpecOperator::ScmpCmpGt,
        name: "SCMP_CMP_GT",
        comparison: |arg| (SeccompCmpOp::Gt, arg.value()),
    },
    Operator {
        spec: SpecOperator::ScmpCmpLe,
        name: "SCMP_CMP_LE",
        comparison: |arg| (SeccompCmpOp::Le, arg.value()),
    },
    Operator {
        spec: SpecOperator::ScmpCmpLt,
        name: "SCMP_CMP_LT",
        comparison: |arg| (SeccompCmpOp::Lt, arg.value()),
    },
    Operator {
        spec: SpecOperator::ScmpCmpMaskedEq,
        name: "SCMP_CMP_MASKED_EQ",
        comparison: |arg| (SeccompCmpOp::MaskedEq(arg.value()), arg.value_two().unwrap_or(0)),
    },
    Operator {
        spec: SpecOperator::ScmpCmpNe,
        name: "SCMP_CMP_NE",
        comparison: |arg| (SeccompCmpOp::Ne, arg.value()),
    },
];

pub fn operator_of(spec: SpecOperator) -> &'static Operator {
    OPERATORS.iter().find(|operator| operator.spec == spec).expect("every operator is listed")
}

pub struct Flag {
    pub spec: SpecFlag,
    pub name: &'static str,
    /// `SECCOMP_FILTER_FLAG_*`; 0 where there is nothing to tell.
    pub bit: u64,
}

pub const FLAGS: &[Flag] = &[
    // Who loads the filter has one thread and is about to exec: there is nobody to synchronise with.
    Flag { spec: SpecFlag::SeccompFilterFlagTsync, name: "SECCOMP_FILTER_FLAG_TSYNC", bit: 0 },
    Flag {
        spec: SpecFlag::SeccompFilterFlagLog,
        name: "SECCOMP_FILTER_FLAG_LOG",
        bit: libc::SECCOMP_FILTER_FLAG_LOG,
    },
    Flag {
        spec: SpecFlag::SeccompFilterFlagSpecAllow,
        name: "SECCOMP_FILTER_FLAG_SPEC_ALLOW",
        bit: libc::SECCOMP_FILTER_FLAG_SPEC_ALLOW,
    },
    Flag {
        spec: SpecFlag::SeccompFilterFlagWaitKillableRecv,
        name: "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV",
        bit: libc::SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV,
    },
];

pub fn flag_of(spec: SpecFlag) -> &'static Flag {
    FLAGS.iter().find(|flag| flag.spec == spec).expect("every flag is listed")
}
