//! What engines send, after they resolved architectures and capabilities of a default container.

use std::time::{Duration, Instant};

use super::*;
use interpreter::run;

pub const DOCKER: &str = include_str!("../fixtures/docker.json");
pub const PODMAN: &str = include_str!("../fixtures/podman.json");

fn compiled(profile: &str) -> Filter {
    compile(serde_json::from_str(profile).expect("a fixture"))
}

#[test]
fn docker_default_profile_does_what_docker_documents() {
    let filter = compiled(DOCKER);
    assert_eq!(filter.warnings, ["linux.seccomp.syscalls: this machine has no riscv_hwprobe: ignored"]);
    for allowed in ["read", "execve", "openat", "statx", "close_range", "mseal", "ptrace", "chroot"] {
        assert_eq!(native(&filter, allowed, &[]), ALLOW, "{allowed}");
    }
    for refused in ["mount", "keyctl", "bpf", "unshare", "setns", "io_uring_setup", "reboot"] {
        assert_eq!(native(&filter, refused, &[]), EPERM, "{refused}");
    }
    assert_eq!(native(&filter, "clone3", &[]), ENOSYS);
    assert_eq!(native(&filter, "clone", &[libc::CLONE_VM as u64]), ALLOW);
    assert_eq!(native(&filter, "clone", &[libc::CLONE_NEWUSER as u64]), EPERM);
    assert_eq!(native(&filter, "socket", &[libc::AF_INET6 as u64]), ALLOW);
    assert_eq!(native(&filter, "socket", &[libc::AF_VSOCK as u64]), EPERM);
    assert_eq!(native(&filter, "personality", &[0x20008]), ALLOW);
    assert_eq!(native(&filter, "personality", &[0x40000]), EPERM);
    assert_eq!(native(&filter, "file_setattr", &[]), ENOSYS);
    assert_eq!(foreign(&filter, "SCMP_ARCH_X86", "socketcall", &[1]), ALLOW);
    assert_eq!(foreign(&filter, "SCMP_ARCH_X32", "rt_sigaction", &[]), ALLOW);
}

#[test]
fn podman_default_profile_refuses_only_the_audit_socket() {
    let filter = compiled(PODMAN);
    const NETLINK: u64 = libc::AF_NETLINK as u64;
    const AUDIT: u64 = libc::NETLINK_AUDIT as u64;
    assert_eq!(native(&filter, "socket", &[NETLINK, 3, AUDIT]), errno(libc::EINVAL));
    assert_eq!(native(&filter, "socket", &[NETLINK, 3, 0]), ALLOW);
    assert_eq!(native(&filter, "socket", &[libc::AF_INET as u64, 1, AUDIT]), ALLOW);
    assert_eq!(native(&filter, "acct", &[]), EPERM);
    assert_eq!(native(&filter, "open_by_handle_at", &[]), EPERM);
    assert_eq!(native(&filter, "file_setattr", &[]), ENOSYS);
    assert_eq!(native(&filter, "mount", &[]), ALLOW);
}

#[test]
fn an_allowed_call_costs_a_binary_search() {
    let filter = compiled(DOCKER);
    let native = architecture(X86_64, "SCMP_ARCH_X86_64");
    let steps: Vec<usize> = (0..467)
        .map(|number| run(&filter.program, &Call::new(native.audit, number, &[])))
        .filter(|outcome| outcome.action == ALLOW)
        .map(|outcome| outcome.steps)
        .collect();
    assert!(steps.len() > 300, "{} calls are allowed", steps.len());
    // Two loads, the architecture, the verdict, and a search in some 120 ranges.
    assert!(steps.iter().sum::<usize>() / steps.len() <= 13, "{steps:?}");
    assert!(filter.program.len() < 1200, "{} instructions", filter.program.len());
}

#[test]
fn docker_default_profile_compiles_in_300_microseconds() {
    let spec: LinuxSeccomp = serde_json::from_str(DOCKER).expect("a fixture");
    // What is not optimised takes some ten times as long.
    let budget = Duration::from_micros(if cfg!(debug_assertions) { 6000 } else { 300 });
    let took = (0..20).map(|_| {
        let start = Instant::now();
        plan_for(&spec, &on(ALL_FLAGS), X86_64).expect("a filter");
        start.elapsed()
    });
    let best = took.min().expect("a measurement");
    println!("Docker's profile is compiled in {best:?}");
    assert!(best < budget, "{best:?}");
}
