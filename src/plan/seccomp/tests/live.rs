//! Filters in the kernel. They are loaded by threads that end with the test: a filter belongs to a thread.

use std::os::fd::OwnedFd;
use std::thread;

use nix::errno::Errno;
use nix::sched::{CloneFlags, unshare};
use nix::sys::personality::{self, Persona};
use nix::sys::prctl::set_no_new_privs;
use nix::unistd::{AccessFlags, access};

use super::*;
use crate::sys::seccomp;

fn under<R: Send>(profile: Value, act: impl FnOnce(Option<OwnedFd>) -> R + Send) -> R {
    let filter = plan(&parse(profile), &on(seccomp::supported_flags())).expect("a filter");
    thread::scope(|scope| {
        let guarded = scope.spawn(|| {
            set_no_new_privs().expect("no_new_privs");
            act(seccomp::load(&filter.program, filter.flags).expect("load"))
        });
        guarded.join().expect("a thread")
    })
}

#[test]
fn docker_default_profile_is_loaded_and_refuses() {
    let profile = serde_json::from_str(profiles::DOCKER).expect("a fixture");
    under(profile, |listener| {
        assert!(listener.is_none());
        assert_eq!(unshare(CloneFlags::CLONE_FILES), Err(Errno::EPERM));
        assert!(access("/", AccessFlags::F_OK).is_ok());
    });
}

#[test]
fn an_argument_decides_over_an_errno() {
    let profile = json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{
        "names": ["personality"], "action": "SCMP_ACT_ERRNO", "errnoRet": libc::EXDEV,
        "args": [{"index": 0, "value": Persona::ADDR_NO_RANDOMIZE.bits(), "op": "SCMP_CMP_EQ"}]
    }]});
    under(profile, |_| {
        assert_eq!(personality::set(Persona::ADDR_NO_RANDOMIZE), Err(Errno::EXDEV));
        assert!(personality::get().is_ok());
    });
}

#[test]
fn a_notifying_filter_comes_with_a_listener() {
    let profile = json!({
        "defaultAction": "SCMP_ACT_ALLOW", "listenerPath": "/run/agent",
        "syscalls": [{"names": ["acct"], "action": "SCMP_ACT_NOTIFY"}]
    });
    assert!(under(profile, |listener| listener.is_some()));
}

#[test]
fn this_kernel_knows_the_flags_of_the_oldest_that_we_run_on() {
    let oldest = libc::SECCOMP_FILTER_FLAG_LOG
        | libc::SECCOMP_FILTER_FLAG_SPEC_ALLOW
        | libc::SECCOMP_FILTER_FLAG_NEW_LISTENER;
    assert_eq!(seccomp::supported_flags() & oldest, oldest);
}
