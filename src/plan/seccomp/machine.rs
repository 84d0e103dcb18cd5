//! The architectures whose system calls one kernel takes: the native one and its compatible elders.
//!
//! An architecture of the spec that is not in [`FAMILY`] can never make a call here, so a profile that
//! names it is not wrong and nothing is generated for it.

use oci_spec::runtime::Arch;
use seccompiler::SeccompCmpArgLen::{self, Dword, Qword};

use super::names::names;

/// The first of the x32 calls, which share their `AUDIT_ARCH` with x86-64.
#[cfg(any(target_arch = "x86_64", test))]
const X32_BIT: u32 = 0x4000_0000;

#[derive(Debug)]
pub struct Architecture {
    pub spec: Arch,
    pub name: &'static str,
    /// `AUDIT_ARCH_*`, what the filter sees.
    pub audit: u32,
    /// Its calls have numbers from here on.
    pub first: u32,
    /// How much of an argument register its programs fill.
    pub width: SeccompCmpArgLen,
    /// Sockets and System V IPC can also be reached through socketcall(2) and ipc(2).
    pub multiplexed: bool,
    pub number: fn(&str) -> Option<u32>,
}

impl Architecture {
    pub fn knows(&self, name: &str) -> bool {
        (self.number)(name).is_some() || self.multiplexer(name).is_some()
    }

    /// The call that carries another one, and its number there.
    pub fn multiplexer(&self, name: &str) -> Option<(u32, u64)> {
        if self.multiplexed { multiplexer(name) } else { None }
    }

    /// The part of a value that its programs can pass.
    pub fn visible(&self, value: u64) -> u64 {
        match self.width {
            Dword => value & u64::from(u32::MAX),
            Qword => value,
        }
    }
}

/// What this kernel runs; the native architecture comes first.
#[cfg(target_arch = "x86_64")]
pub const FAMILY: &[Architecture] = X86_64;
#[cfg(target_arch = "aarch64")]
pub const FAMILY: &[Architecture] = AARCH64;
#[cfg(target_arch = "riscv64")]
pub const FAMILY: &[Architecture] = RISCV64;

#[cfg(any(target_arch = "x86_64", test))]
pub const X86_64: &[Architecture] = &[
    Architecture {
        spec: Arch::ScmpArchX86_64,
        name: "SCMP_ARCH_X86_64",
        audit: 0xc000_003e,
        first: 0,
        width: Qword,
        multiplexed: false,
        number: x86_64_number,
    },
    Architecture {
        spec: Arch::ScmpArchX32,
        name: "SCMP_ARCH_X32",
        audit: 0xc000_003e,
        first: X32_BIT,
        width: Dword,
        multiplexed: false,
        number: x32_number,
    },
    Architecture {
        spec: Arch::ScmpArchX86,
        name: "SCMP_ARCH_X86",
        audit: 0x4000_0003,
        first: 0,
        width: Dword,
        multiplexed: true,
        number: |name| names!(syscalls::x86::Sysno).number(name),
    },
];

#[cfg(any(target_arch = "aarch64", test))]
pub const AARCH64: &[Architecture] = &[
    Architecture {
        spec: Arch::ScmpArchAarch64,
        name: "SCMP_ARCH_AARCH64",
        audit: 0xc000_00b7,
        first: 0,
        width: Qword,
        multiplexed: false,
        number: aarch64_number,
    },
    Architecture {
        spec: Arch::ScmpArchArm,
        name: "SCMP_ARCH_ARM",
        audit: 0x4000_0028,
        first: 0,
        width: Dword,
        multiplexed: false,
        number: arm_number,
    },
];

#[cfg(any(target_arch = "riscv64", test))]
pub const RISCV64: &[Architecture] = &[Architecture {
    spec: Arch::ScmpArchRiscv64,
    name: "SCMP_ARCH_RISCV64",
    audit: 0xc000_00f3,
    first: 0,
    width: Qword,
    multiplexed: false,
    number: |name| names!(syscalls::riscv64::Sysno).number(name),
}];

#[cfg(any(target_arch = "x86_64", test))]
fn x86_64_number(name: &str) -> Option<u32> {
    names!(syscalls::x86_64::Sysno).number(name)
}

/// x32 makes most calls of x86-64, but those that pass pointers in memory under a number of its own.
#[cfg(any(target_arch = "x86_64", test))]
fn x32_number(name: &str) -> Option<u32> {
    use syscalls::x86_64::Sysno as Call;

    let native = x86_64_number(name)?;
    let number = match Call::new(native as usize)? {
        Call::rt_sigaction => 512,
        Call::rt_sigreturn => 513,
        Call::ioctl => 514,
        Call::readv => 515,
        Call::writev => 516,
        Call::recvfrom => 517,
        Call::sendmsg => 518,
        Call::recvmsg => 519,
        Call::execve => 520,
        Call::ptrace => 521,
        Call::rt_sigpending => 522,
        Call::rt_sigtimedwait => 523,
        Call::rt_sigqueueinfo => 524,
        Call::sigaltstack => 525,
        Call::timer_create => 526,
        Call::mq_notify => 527,
        Call::kexec_load => 528,
        Call::waitid => 529,
        Call::set_robust_list => 530,
        Call::get_robust_list => 531,
        Call::vmsplice => 532,
        Call::move_pages => 533,
        Call::preadv => 534,
        Call::pwritev => 535,
        Call::rt_tgsigqueueinfo => 536,
        Call::recvmmsg => 537,
        Call::sendmmsg => 538,
        Call::process_vm_readv => 539,
        Call::process_vm_writev => 540,
        Call::setsockopt => 541,
        Call::getsockopt => 542,
        Call::io_setup => 543,
        Call::io_submit => 544,
        Call::execveat => 545,
        Call::preadv2 => 546,
        Call::pwritev2 => 547,
        Call::_sysctl
        | Call::create_module
        | Call::epoll_ctl_old
        | Call::epoll_wait_old
        | Call::get_kernel_syms
        | Call::get_thread_area
        | Call::map_shadow_stack
        | Call::nfsservctl
        | Call::query_module
        | Call::set_thread_area
        | Call::uselib
        | Call::vserver => return None,
        _ => native,
    };
    Some(X32_BIT | number)
}

#[cfg(any(target_arch = "aarch64", test))]
fn aarch64_number(name: &str) -> Option<u32> {
    // The kernel's generic table says fstatat, everybody else says newfstatat.
    let name = if name == "newfstatat" { "fstatat" } else { name };
    names!(syscalls::aarch64::Sysno).number(name)
}

/// The calls that only the ARM kernel has, numbered far from the common ones.
#[cfg(any(target_arch = "aarch64", test))]
const ARM_OWN: &[(&str, u32)] = &[
    ("breakpoint", 0xf_0001),
    ("cacheflush", 0xf_0002),
    ("usr26", 0xf_0003),
    ("usr32", 0xf_0004),
    ("set_tls", 0xf_0005),
    ("get_tls", 0xf_0006),
];

#[cfg(any(target_arch = "aarch64", test))]
fn arm_number(name: &str) -> Option<u32> {
    let own = ARM_OWN.iter().find(|(own, _)| *own == name).map(|(_, number)| *number);
    own.or_else(|| names!(syscalls::arm::Sysno).number(name))
}

/// The multiplexer of x86 that carries a call, and the call's number in it.
fn multiplexer(name: &str) -> Option<(u32, u64)> {
    const SOCKETCALL: u32 = 102;
    const IPC: u32 = 117;
    Some(match name {
        "socket" => (SOCKETCALL, 1),
        "bind" => (SOCKETCALL, 2),
        "connect" => (SOCKETCALL, 3),
        "listen" => (SOCKETCALL, 4),
        "accept" => (SOCKETCALL, 5),
        "getsockname" => (SOCKETCALL, 6),
        "getpeername" => (SOCKETCALL, 7),
        "socketpair" => (SOCKETCALL, 8),
        "send" => (SOCKETCALL, 9),
        "recv" => (SOCKETCALL, 10),
        "sendto" => (SOCKETCALL, 11),
        "recvfrom" => (SOCKETCALL, 12),
        "shutdown" => (SOCKETCALL, 13),
        "setsockopt" => (SOCKETCALL, 14),
        "getsockopt" => (SOCKETCALL, 15),
        "sendmsg" => (SOCKETCALL, 16),
        "recvmsg" => (SOCKETCALL, 17),
        "accept4" => (SOCKETCALL, 18),
        "recvmmsg" => (SOCKETCALL, 19),
        "sendmmsg" => (SOCKETCALL, 20),
        "semop" => (IPC, 1),
        "semget" => (IPC, 2),
        "semctl" => (IPC, 3),
        "semtimedop" => (IPC, 4),
        "msgsnd" => (IPC, 11),
        "msgrcv" => (IPC, 12),
        "msgget" => (IPC, 13),
        "msgctl" => (IPC, 14),
        "shmat" => (IPC, 21),
        "shmdt" => (IPC, 22),
        "shmget" => (IPC, 23),
        "shmctl" => (IPC, 24),
        _ => return None,
    })
}
