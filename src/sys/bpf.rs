//! bpf(2), as much of it as a cgroup's device program needs.
//!
//! Runs outside. No policy: which program, and whose place it takes, is decided in `host/cgroup/device_bpf.rs`.
//! Nothing raises RLIMIT_MEMLOCK: since Linux 5.11 programs are charged to the memory cgroup instead.

#![allow(unsafe_code)]

use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use nix::errno::Errno;

/// `struct bpf_insn`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Instruction {
    pub code: u8,
    /// Destination in the low four bits, source in the high ones.
    pub registers: u8,
    pub offset: i16,
    pub immediate: i32,
}

const PROG_LOAD: libc::c_int = 5;
const PROG_ATTACH: libc::c_int = 8;
const PROG_DETACH: libc::c_int = 9;
const PROG_GET_FD_BY_ID: libc::c_int = 13;
const PROG_QUERY: libc::c_int = 16;

const PROG_TYPE_CGROUP_DEVICE: u32 = 15;
const CGROUP_DEVICE: u32 = 6;
const ALLOW_MULTI: u32 = 1 << 1;
const REPLACE: u32 = 1 << 2;

/// `union bpf_attr`, larger than any kernel's and zeroed: the kernel writes fields back that a shorter one would
/// not have (`revision` of a query, since 6.17), and takes a longer one whose tail is zero.
#[repr(C)]
union Attributes {
    whole: [u64; 24],
    load: Load,
    attach: Attach,
    query: Query,
    id: u32,
}

#[repr(C)]
#[derive(Clone, Copy)]
struct Load {
    program_type: u32,
    instruction_count: u32,
    instructions: u64,
    license: u64,
}

#[repr(C)]
#[derive(Clone, Copy)]
struct Attach {
    target: RawFd,
    program: RawFd,
    attach_type: u32,
    flags: u32,
    replaced: RawFd,
}

#[repr(C)]
#[derive(Clone, Copy)]
struct Query {
    target: RawFd,
    attach_type: u32,
    query_flags: u32,
    attach_flags: u32,
    ids: u64,
    count: u32,
}

impl Attributes {
    fn zeroed() -> Attributes {
        Attributes { whole: [0; 24] }
    }
}

/// Load a program of type `BPF_PROG_TYPE_CGROUP_DEVICE`.
pub fn load_device_program(instructions: &[Instruction]) -> Result<OwnedFd, Errno> {
    let mut attributes = Attributes::zeroed();
    attributes.load = Load {
        program_type: PROG_TYPE_CGROUP_DEVICE,
        instruction_count: instructions.len() as u32,
        instructions: instructions.as_ptr() as u64,
        license: c"Apache-2.0".as_ptr() as u64,
    };
    loop {
        // SAFETY: the attributes point to `instructions` and to a static string, which both outlive the call.
        match unsafe { bpf(PROG_LOAD, &mut attributes) } {
            // The verifier gives way to a signal.
            Err(Errno::EAGAIN) => continue,
            Err(errno) => return Err(errno),
            // SAFETY: BPF_PROG_LOAD returned a new descriptor that nobody else has.
            Ok(fd) => return Ok(unsafe { OwnedFd::from_raw_fd(fd) }),
        }
    }
}

/// The ids of the device programs attached to a cgroup itself.
pub fn device_programs(cgroup: BorrowedFd<'_>) -> Result<Vec<u32>, Errno> {
    // The kernel's own bound on programs of one type in one cgroup.
    let mut ids = vec![0u32; 64];
    let mut attributes = Attributes::zeroed();
    attributes.query = Query {
        target: cgroup.as_raw_fd(),
        attach_type: CGROUP_DEVICE,
        query_flags: 0,
        attach_flags: 0,
        ids: ids.as_mut_ptr() as u64,
        count: ids.len() as u32,
    };
    // SAFETY: the attributes point to `ids`, which is as long as `count` says and outlives the call.
    unsafe { bpf(PROG_QUERY, &mut attributes) }?;
    // SAFETY: `query` was initialised above, and any bits are a valid `count`.
    let count = unsafe { attributes.query.count };
    ids.truncate(count as usize);
    Ok(ids)
}

pub fn program_by_id(id: u32) -> Result<OwnedFd, Errno> {
    let mut attributes = Attributes::zeroed();
    attributes.id = id;
    // SAFETY: the attributes hold no pointer.
    let fd = unsafe { bpf(PROG_GET_FD_BY_ID, &mut attributes) }?;
    // SAFETY: BPF_PROG_GET_FD_BY_ID returned a new descriptor that nobody else has.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Attach a device program next to those of others, or in the place of one of them.
pub fn attach_device_program(
    cgroup: BorrowedFd<'_>,
    program: BorrowedFd<'_>,
    replaced: Option<BorrowedFd<'_>>,
) -> Result<(), Errno> {
    let mut attributes = Attributes::zeroed();
    attributes.attach = Attach {
        target: cgroup.as_raw_fd(),
        program: program.as_raw_fd(),
        attach_type: CGROUP_DEVICE,
        flags: if replaced.is_some() { ALLOW_MULTI | REPLACE } else { ALLOW_MULTI },
        replaced: replaced.map_or(0, |program| program.as_raw_fd()),
    };
    // SAFETY: the attributes hold no pointer.
    unsafe { bpf(PROG_ATTACH, &mut attributes) }.map(drop)
}

pub fn detach_device_program(cgroup: BorrowedFd<'_>, program: BorrowedFd<'_>) -> Result<(), Errno> {
    let mut attributes = Attributes::zeroed();
    attributes.attach = Attach {
        target: cgroup.as_raw_fd(),
        program: program.as_raw_fd(),
        attach_type: CGROUP_DEVICE,
        flags: 0,
        replaced: 0,
    };
    // SAFETY: the attributes hold no pointer.
    unsafe { bpf(PROG_DETACH, &mut attributes) }.map(drop)
}

/// # Safety
/// What the attributes of this command point to must be valid during the call.
unsafe fn bpf(command: libc::c_int, attributes: &mut Attributes) -> Result<RawFd, Errno> {
    let attributes: *mut Attributes = attributes;
    // SAFETY: the attributes are initialised over their whole size; the caller answers for what they point to.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, attributes, size_of::<Attributes>()) };
    Errno::result(result).map(|fd| fd as RawFd)
}
