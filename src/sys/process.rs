//! Processes: birth, death, and what a process may ask the kernel about itself (clone(2), prctl(2), wait(2)).

use std::ffi::{CStr, CString};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::SigSet;

use super::checked;

// libc has these as 32 bits, of which they need 33 and 34.
const CLONE_CLEAR_SIGHAND: u64 = 0x1_0000_0000;
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

/// Which side of a clone a process finds itself on.
pub enum Side {
    Child,
    Parent { pid: i32, pidfd: OwnedFd },
}

/// clone3(2), as fork(2) does it: the child gets a copy of all memory.
///
/// `flags` are `CLONE_*`; with `birthplace` the child is born in that v2 cgroup. Signal handlers are not inherited,
/// ignored signals are. The caller must be single-threaded ([`is_single_threaded`]), or the child's copy of a lock may
/// be held for ever.
pub fn clone_process(flags: u64, birthplace: Option<BorrowedFd<'_>>) -> Result<Side, Errno> {
    let mut pidfd: libc::c_int = -1;
    // SAFETY: all bytes zero is a valid `clone_args`.
    let mut arguments: libc::clone_args = unsafe { std::mem::zeroed() };
    arguments.flags = flags | libc::CLONE_PIDFD as u64 | CLONE_CLEAR_SIGHAND;
    arguments.pidfd = &raw mut pidfd as u64;
    // With CLONE_PARENT the child's parent is told as ours is told about us.
    if flags & libc::CLONE_PARENT as u64 == 0 {
        arguments.exit_signal = libc::SIGCHLD as u64;
    }
    if let Some(directory) = birthplace {
        arguments.flags |= CLONE_INTO_CGROUP;
        arguments.cgroup = directory.as_raw_fd() as u64;
    }
    // SAFETY: without CLONE_VM and with no stack this returns twice like fork(2); the arguments are live.
    let pid = checked(unsafe {
        libc::syscall(libc::SYS_clone3, &raw mut arguments, size_of::<libc::clone_args>())
    })?;
    if pid == 0 {
        return Ok(Side::Child);
    }
    // SAFETY: the kernel has just given us this descriptor, and nobody else knows it.
    Ok(Side::Parent { pid: pid as i32, pidfd: unsafe { OwnedFd::from_raw_fd(pidfd) } })
}

/// _exit(2): no exit handler of ours or of libc's runs, and no buffer is flushed.
pub fn exit_now(status: i32) -> ! {
    // SAFETY: no memory is passed.
    unsafe { libc::_exit(status) }
}

/// Wait until a process has ended, or the time is over; whether it has.
pub fn ends_within(process: BorrowedFd<'_>, timeout_ms: Option<u64>) -> Result<bool, Errno> {
    let deadline = timeout_ms.and_then(|limit| Instant::now().checked_add(Duration::from_millis(limit)));
    loop {
        let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        let timeout = left.map_or(PollTimeout::NONE, |left| left.try_into().unwrap_or(PollTimeout::MAX));
        match poll(&mut [PollFd::new(process, PollFlags::POLLIN)], timeout) {
            Err(Errno::EINTR) => {}
            result => return result.map(|ready| ready == 1),
        }
    }
}

/// Whether this process has one thread, by the number of entries in `/proc/self/task`.
pub fn is_single_threaded() -> Result<bool, Errno> {
    // The link count of a procfs task directory is its number of threads and two.
    Ok(nix::sys::stat::stat(c"/proc/self/task")?.st_nlink == 3)
}

/// pidfd_open(2).
pub fn open_pidfd(pid: i32) -> Result<OwnedFd, Errno> {
    // SAFETY: no memory is passed.
    let fd = checked(unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) })?;
    // SAFETY: the kernel has just given us this descriptor, and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

/// pidfd_send_signal(2); signal 0 asks whether the process is there.
pub fn signal(process: BorrowedFd<'_>, signal: i32) -> Result<(), Errno> {
    // SAFETY: no `siginfo` is passed.
    checked(unsafe {
        libc::syscall(
            libc::SYS_pidfd_send_signal,
            process.as_raw_fd(),
            signal,
            std::ptr::null::<libc::siginfo_t>(),
            0,
        )
    })?;
    Ok(())
}

/// Have the kernel keep our ended children for us to wait for, whatever disposition the caller left us.
pub fn keep_ended_children() -> Result<(), Errno> {
    // SAFETY: SIG_DFL is a valid action for SIGCHLD.
    let before = unsafe { libc::signal(libc::SIGCHLD, libc::SIG_DFL) };
    if before == libc::SIG_ERR { Err(Errno::last()) } else { Ok(()) }
}

/// Have the kernel forget our ended children (`SA_NOCLDWAIT`), as far as the next execve(2), which clears it.
pub fn forget_ended_children() -> Result<(), Errno> {
    // SAFETY: all bytes zero is a valid `sigaction`: SIG_DFL, nothing blocked.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_flags = libc::SA_NOCLDWAIT;
    // SAFETY: the pointer is to one live `sigaction`; the old one is not asked for.
    checked(unsafe { libc::sigaction(libc::SIGCHLD, &action, std::ptr::null_mut()) }.into()).map(drop)
}

/// prctl(2) with up to two numbers.
fn control(option: libc::c_int, second: libc::c_ulong, third: libc::c_ulong) -> Result<i32, Errno> {
    // SAFETY: every option used in this file takes plain numbers.
    checked(unsafe { libc::prctl(option, second, third, 0, 0) }.into()).map(|value| value as i32)
}

/// `PR_SET_PDEATHSIG`: the signal to get when the parent dies; 0 for none.
pub fn set_parent_death_signal(signal: i32) -> Result<(), Errno> {
    control(libc::PR_SET_PDEATHSIG, signal as libc::c_ulong, 0).map(drop)
}

/// `PR_SET_DUMPABLE` 0: nobody below root may read our memory, descriptors or namespaces through procfs.
pub fn set_undumpable() -> Result<(), Errno> {
    control(libc::PR_SET_DUMPABLE, 0, 0).map(drop)
}

/// `PR_SET_DUMPABLE` 1, the opposite.
pub fn set_dumpable() -> Result<(), Errno> {
    control(libc::PR_SET_DUMPABLE, 1, 0).map(drop)
}

/// Overwrite the environment that this process was started with: whoever may look into it sees that in
/// `/proc/PID/environ`. Nobody reads it any more.
pub fn wipe_environment() {
    unsafe extern "C" {
        static mut environ: *mut *mut libc::c_char;
    }
    // SAFETY: the C library keeps the list there, and this lone thread does not change it meanwhile.
    let mut variable = unsafe { environ };
    while !variable.is_null() {
        // SAFETY: within the list, which a null pointer ends.
        let text = unsafe { *variable };
        if text.is_null() {
            break;
        }
        // SAFETY: the list holds C strings.
        let length = unsafe { libc::strlen(text) };
        // SAFETY: they lie where the kernel or the C library has put them to be written to.
        unsafe { std::ptr::write_bytes(text, 0, length) };
        // SAFETY: no further than the null pointer.
        variable = unsafe { variable.add(1) };
    }
}

/// `PR_SET_NO_NEW_PRIVS`.
pub fn set_no_new_privileges() -> Result<(), Errno> {
    control(libc::PR_SET_NO_NEW_PRIVS, 1, 0).map(drop)
}

/// `PR_SET_CHILD_SUBREAPER`: orphaned descendants become our children.
pub fn set_child_subreaper() -> Result<(), Errno> {
    control(libc::PR_SET_CHILD_SUBREAPER, 1, 0).map(drop)
}

/// `PR_SET_KEEPCAPS`: permitted capabilities survive a change of user.
pub fn set_keep_capabilities(keep: bool) -> Result<(), Errno> {
    control(libc::PR_SET_KEEPCAPS, keep.into(), 0).map(drop)
}

/// `PR_CAPBSET_DROP`; EINVAL for a capability that the kernel does not know.
pub fn drop_bounding(capability: u32) -> Result<(), Errno> {
    control(libc::PR_CAPBSET_DROP, capability.into(), 0).map(drop)
}

/// `PR_CAPBSET_READ`: whether the bounding set holds a capability; EINVAL past the last one.
pub fn has_bounding(capability: u32) -> Result<bool, Errno> {
    control(libc::PR_CAPBSET_READ, capability.into(), 0).map(|held| held == 1)
}

/// `PR_CAP_AMBIENT_CLEAR_ALL`.
pub fn clear_ambient() -> Result<(), Errno> {
    control(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_CLEAR_ALL as libc::c_ulong, 0).map(drop)
}

/// `PR_CAP_AMBIENT_RAISE`.
pub fn raise_ambient(capability: u32) -> Result<(), Errno> {
    let raise = libc::PR_CAP_AMBIENT_RAISE as libc::c_ulong;
    control(libc::PR_CAP_AMBIENT, raise, capability.into()).map(drop)
}

/// The lists that execve(2) wants, made before they are needed: afterwards a filter may refuse brk(2) and mmap(2).
pub struct Image<'a> {
    arguments: Vec<*const libc::c_char>,
    environment: Vec<*const libc::c_char>,
    strings: std::marker::PhantomData<&'a CStr>,
}

impl<'a> Image<'a> {
    pub fn new(arguments: &'a [CString], environment: &'a [CString]) -> Image<'a> {
        let pointers =
            |texts: &'a [CString]| texts.iter().map(|text| text.as_ptr()).chain([std::ptr::null()]).collect();
        Image {
            arguments: pointers(arguments),
            environment: pointers(environment),
            strings: std::marker::PhantomData,
        }
    }

    /// One more variable. It lives as long as this process, which execve(2) ends.
    pub fn add_variable(&mut self, variable: CString) {
        let end = self.environment.len() - 1;
        self.environment.insert(end, variable.into_raw());
    }

    /// execve(2). Returns only with the reason why it failed.
    pub fn execute(&self, path: &CStr) -> Errno {
        // SAFETY: both lists end with a null pointer and point to C strings, which the lifetime keeps alive.
        unsafe { libc::execve(path.as_ptr(), self.arguments.as_ptr(), self.environment.as_ptr()) };
        Errno::last()
    }
}

/// How a child ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    Exited(i32),
    Signalled(i32),
}

impl Ended {
    /// The status a shell would report: the exit status, or 128 and the signal.
    pub fn status(self) -> i32 {
        match self {
            Ended::Exited(status) => status,
            Ended::Signalled(signal) => 128 + signal,
        }
    }
}

impl std::fmt::Display for Ended {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Ended::Exited(status) => write!(f, "exited with status {status}"),
            Ended::Signalled(signal) => write!(f, "was killed by signal {signal}"),
        }
    }
}

/// Whom [`wait`] waits for.
#[derive(Clone, Copy)]
pub enum Whom<'a> {
    Process(BorrowedFd<'a>),
    AnyChild,
}

/// waitid(2) for the end of a child: its pid and how it ended, or `None` when `block` is false and none has.
pub fn wait(whom: Whom<'_>, block: bool) -> Result<Option<(i32, Ended)>, Errno> {
    let (kind, id) = match whom {
        Whom::Process(pidfd) => (libc::P_PIDFD, pidfd.as_raw_fd() as libc::id_t),
        Whom::AnyChild => (libc::P_ALL, 0),
    };
    let flags = libc::WEXITED | if block { 0 } else { libc::WNOHANG };
    loop {
        // SAFETY: all bytes zero is a valid `siginfo_t`.
        let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
        // SAFETY: the pointer is to one live `siginfo_t`, which the kernel fills.
        match checked(unsafe { libc::waitid(kind, id, &raw mut info, flags) }.into()) {
            Ok(_) => {}
            Err(Errno::EINTR) => continue,
            Err(error) => return Err(error),
        }
        // SAFETY: waitid fills this member, or leaves zero when no child has ended.
        let pid = unsafe { info.si_pid() };
        if pid == 0 {
            return Ok(None);
        }
        // SAFETY: as above, and a child has ended.
        let status = unsafe { info.si_status() };
        let ended =
            if info.si_code == libc::CLD_EXITED { Ended::Exited(status) } else { Ended::Signalled(status) };
        return Ok(Some((pid, ended)));
    }
}

/// sched_setattr(2) for the calling thread; the fields are those of `struct sched_attr`.
pub fn set_scheduler(attributes: &libc::sched_attr) -> Result<(), Errno> {
    // SAFETY: the pointer is to one live `sched_attr`, which says its own size.
    checked(unsafe { libc::syscall(libc::SYS_sched_setattr, 0, attributes as *const libc::sched_attr, 0) })?;
    Ok(())
}

/// ioprio_set(2) for the calling thread: class in the upper bits from 13, level below.
pub fn set_io_priority(value: i32) -> Result<(), Errno> {
    const IOPRIO_WHO_PROCESS: libc::c_int = 1;
    // SAFETY: no memory is passed.
    checked(unsafe { libc::syscall(libc::SYS_ioprio_set, IOPRIO_WHO_PROCESS, 0, value) })?;
    Ok(())
}

/// set_mempolicy(2): `mode` with its flags, and the nodes as a bit mask.
pub fn set_memory_policy(mode: i32, nodes: &[u64]) -> Result<(), Errno> {
    let pointer = if nodes.is_empty() { std::ptr::null() } else { nodes.as_ptr() };
    // The kernel looks at one bit fewer than it is told.
    let bits = if nodes.is_empty() { 0 } else { nodes.len() * 64 + 1 };
    // SAFETY: the pointer is null, or to as many bits as are announced, less the one that is not read.
    checked(unsafe { libc::syscall(libc::SYS_set_mempolicy, mode, pointer, bits) })?;
    Ok(())
}

/// sched_setaffinity(2) for the calling thread; bit n of the mask, lowest byte first, is processor n.
pub fn set_affinity(mask: &[u8]) -> Result<(), Errno> {
    // SAFETY: the pointer and the size describe one live slice.
    checked(unsafe { libc::syscall(libc::SYS_sched_setaffinity, 0, mask.len(), mask.as_ptr()) })?;
    Ok(())
}

/// personality(2).
pub fn set_personality(value: u64) -> Result<(), Errno> {
    // SAFETY: no memory is passed.
    checked(unsafe { libc::personality(value) }.into())?;
    Ok(())
}

/// Raise the calling process's hard limit to a value, if it is lower (prlimit(2)); the soft one stays.
pub fn raise_hard_limit(resource: Resource, hard: u64) -> Result<(), Errno> {
    let (soft, present) = getrlimit(resource)?;
    if present < hard { setrlimit(resource, soft, hard) } else { Ok(()) }
}

/// Have writing to a pipe that nobody reads fail with EPIPE.
pub fn ignore_broken_pipes() -> Result<(), Errno> {
    // SAFETY: SIG_IGN is a valid action for SIGPIPE.
    let before = unsafe { libc::signal(libc::SIGPIPE, libc::SIG_IGN) };
    if before == libc::SIG_ERR { Err(Errno::last()) } else { Ok(()) }
}

/// All there are. A C library leaves out those that its threads use among themselves; here there are none.
pub fn every_signal() -> SigSet {
    // SAFETY: any bytes are a set.
    let every: libc::sigset_t = unsafe { std::mem::transmute([u8::MAX; size_of::<libc::sigset_t>()]) };
    // SAFETY: as above.
    unsafe { SigSet::from_sigset_t_unchecked(every) }
}

/// Block no signal and ignore none, whatever our caller does: what a new program expects.
pub fn restore_signals() -> Result<(), Errno> {
    // The kernel's `struct sigaction`: SIG_DFL, no flags, no mask. The C library would keep two signals to itself.
    let default = [0_u64; 4];
    let nothing = std::ptr::null::<u64>();
    for signal in 1..=libc::SIGRTMAX() {
        // Those that cannot be ignored are refused.
        // SAFETY: the pointer is to a live action, and the size is that of the kernel's set of signals.
        unsafe { libc::syscall(libc::SYS_rt_sigaction, signal, default.as_ptr(), nothing, size_of::<u64>()) };
    }
    SigSet::empty().thread_set_mask()
}

/// setdomainname(2).
pub fn set_domainname(name: &CStr) -> Result<(), Errno> {
    let bytes = name.to_bytes();
    // SAFETY: the pointer and the length describe one live string.
    checked(unsafe { libc::setdomainname(bytes.as_ptr().cast(), bytes.len()) }.into())?;
    Ok(())
}

/// sethostname(2).
pub fn set_hostname(name: &CStr) -> Result<(), Errno> {
    let bytes = name.to_bytes();
    // SAFETY: the pointer and the length describe one live string.
    checked(unsafe { libc::sethostname(bytes.as_ptr().cast(), bytes.len()) }.into())?;
    Ok(())
}
