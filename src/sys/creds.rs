//! Who a process is and what it may do (credentials(7), capabilities(7), keyrings(7)).

use std::ffi::CStr;

use nix::errno::Errno;

use super::checked;

/// setgroups(2), of the kernel's own rather than libc's, which would ask other threads.
pub fn set_groups(groups: &[u32]) -> Result<(), Errno> {
    // SAFETY: the length and the pointer describe one live slice.
    checked(unsafe { libc::syscall(libc::SYS_setgroups, groups.len(), groups.as_ptr()) })?;
    Ok(())
}

/// setresgid(2): real, effective and saved.
pub fn set_gid(gid: u32) -> Result<(), Errno> {
    // SAFETY: no memory is passed.
    checked(unsafe { libc::syscall(libc::SYS_setresgid, gid, gid, gid) })?;
    Ok(())
}

/// setresuid(2): real, effective and saved.
pub fn set_uid(uid: u32) -> Result<(), Errno> {
    // SAFETY: no memory is passed.
    checked(unsafe { libc::syscall(libc::SYS_setresuid, uid, uid, uid) })?;
    Ok(())
}

const CAPABILITY_VERSION_3: u32 = 0x2008_0522;

#[repr(C)]
struct Header {
    version: u32,
    pid: i32,
}

#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Data {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

/// Effective, permitted and inheritable capabilities of a thread, bit n for capability n.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ThreadSets {
    pub effective: u64,
    pub permitted: u64,
    pub inheritable: u64,
}

/// capset(2) for the calling thread.
pub fn set_capabilities(sets: ThreadSets) -> Result<(), Errno> {
    let mut header = Header { version: CAPABILITY_VERSION_3, pid: 0 };
    let half = |shift: u32| Data {
        effective: (sets.effective >> shift) as u32,
        permitted: (sets.permitted >> shift) as u32,
        inheritable: (sets.inheritable >> shift) as u32,
    };
    let data = [half(0), half(32)];
    // SAFETY: version 3 reads one header and two data records, which are live.
    checked(unsafe { libc::syscall(libc::SYS_capset, &raw mut header, data.as_ptr()) })?;
    Ok(())
}

/// capget(2) for the calling thread.
pub fn capabilities() -> Result<ThreadSets, Errno> {
    let mut header = Header { version: CAPABILITY_VERSION_3, pid: 0 };
    let mut data = [Data::default(); 2];
    // SAFETY: version 3 fills two data records, which are live.
    checked(unsafe { libc::syscall(libc::SYS_capget, &raw mut header, data.as_mut_ptr()) })?;
    let whole = |part: fn(&Data) -> u32| u64::from(part(&data[0])) | u64::from(part(&data[1])) << 32;
    Ok(ThreadSets {
        effective: whole(|half| half.effective),
        permitted: whole(|half| half.permitted),
        inheritable: whole(|half| half.inheritable),
    })
}

/// A new session keyring called `name`, possessed by this process (`KEYCTL_JOIN_SESSION_KEYRING`, keyctl(2)).
pub fn join_session_keyring(name: &CStr) -> Result<(), Errno> {
    const KEYCTL_JOIN_SESSION_KEYRING: libc::c_int = 1;
    // SAFETY: the name is a C string and outlives the call.
    checked(unsafe { libc::syscall(libc::SYS_keyctl, KEYCTL_JOIN_SESSION_KEYRING, name.as_ptr()) })?;
    Ok(())
}
