//! The mount API on descriptors (open_tree(2), fsopen(2), mount_setattr(2) and their kin).

use std::ffi::CStr;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use nix::errno::Errno;

use super::checked;

/// Attributes of a mount, from `linux/mount.h`.
pub mod attr {
    pub const RDONLY: u64 = 0x0000_0001;
    pub const NOSUID: u64 = 0x0000_0002;
    pub const NODEV: u64 = 0x0000_0004;
    pub const NOEXEC: u64 = 0x0000_0008;
    pub const IDMAP: u64 = 0x0010_0000;
}

/// `struct mount_attr` of mount_setattr(2).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct Attributes {
    pub set: u64,
    pub clear: u64,
    pub propagation: u64,
    pub userns_fd: u64,
}

/// Whether a call reaches below the mount that it names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Depth {
    One,
    Recursive,
}

impl Depth {
    fn flag(self) -> libc::c_uint {
        match self {
            Depth::One => 0,
            Depth::Recursive => libc::AT_RECURSIVE as libc::c_uint,
        }
    }
}

const FSOPEN_CLOEXEC: libc::c_uint = 1;
const FSMOUNT_CLOEXEC: libc::c_uint = 1;
const FSCONFIG_SET_FLAG: libc::c_uint = 0;
const FSCONFIG_SET_STRING: libc::c_uint = 1;
const FSCONFIG_CMD_CREATE: libc::c_uint = 6;
const FSCONFIG_CMD_RECONFIGURE: libc::c_uint = 7;
const MOVE_MOUNT_F_EMPTY_PATH: libc::c_uint = 0x04;
const MOVE_MOUNT_T_EMPTY_PATH: libc::c_uint = 0x40;

/// open_tree(2) with `OPEN_TREE_CLONE`: a detached copy of what `path` names below `directory`.
pub fn clone_tree(
    directory: BorrowedFd<'_>,
    path: &CStr,
    depth: Depth,
    follow: bool,
) -> Result<OwnedFd, Errno> {
    let mut flags = libc::OPEN_TREE_CLONE | libc::OPEN_TREE_CLOEXEC | depth.flag();
    if path.is_empty() {
        flags |= libc::AT_EMPTY_PATH as libc::c_uint;
    } else if !follow {
        flags |= libc::AT_SYMLINK_NOFOLLOW as libc::c_uint;
    }
    // SAFETY: `path` is a C string and outlives the call.
    let fd =
        checked(unsafe { libc::syscall(libc::SYS_open_tree, directory.as_raw_fd(), path.as_ptr(), flags) })?;
    // SAFETY: the kernel has just given us this descriptor, and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

/// fsopen(2): a context in which a new filesystem is configured.
pub fn open_filesystem(kind: &CStr) -> Result<OwnedFd, Errno> {
    // SAFETY: `kind` is a C string and outlives the call.
    let fd = checked(unsafe { libc::syscall(libc::SYS_fsopen, kind.as_ptr(), FSOPEN_CLOEXEC) })?;
    // SAFETY: the kernel has just given us this descriptor, and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

/// fsconfig(2) `FSCONFIG_SET_FLAG`.
pub fn set_flag(context: BorrowedFd<'_>, key: &CStr) -> Result<(), Errno> {
    configure(context, FSCONFIG_SET_FLAG, Some(key), None)
}

/// fsconfig(2) `FSCONFIG_SET_STRING`; the kernel takes up to 255 bytes.
pub fn set_text(context: BorrowedFd<'_>, key: &CStr, value: &CStr) -> Result<(), Errno> {
    configure(context, FSCONFIG_SET_STRING, Some(key), Some(value))
}

fn configure(
    context: BorrowedFd<'_>,
    command: libc::c_uint,
    key: Option<&CStr>,
    value: Option<&CStr>,
) -> Result<(), Errno> {
    let pointer = |text: Option<&CStr>| text.map_or(std::ptr::null(), CStr::as_ptr);
    // SAFETY: both texts are C strings or null, as the command wants, and outlive the call.
    checked(unsafe {
        libc::syscall(libc::SYS_fsconfig, context.as_raw_fd(), command, pointer(key), pointer(value), 0)
    })?;
    Ok(())
}

/// Make the configured filesystem, and a detached mount of it with `MOUNT_ATTR_*` flags (fsmount(2)).
pub fn make_mount(context: BorrowedFd<'_>, attributes: u64) -> Result<OwnedFd, Errno> {
    configure(context, FSCONFIG_CMD_CREATE, None, None)?;
    // SAFETY: no memory is passed.
    let fd = checked(unsafe {
        libc::syscall(libc::SYS_fsmount, context.as_raw_fd(), FSMOUNT_CLOEXEC, attributes as libc::c_uint)
    })?;
    // SAFETY: the kernel has just given us this descriptor, and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

/// fspick(2): a context for the filesystem that `target` is open on, to change its parameters.
pub fn pick_filesystem(target: BorrowedFd<'_>) -> Result<OwnedFd, Errno> {
    const FSPICK_CLOEXEC: libc::c_uint = 0x1;
    const FSPICK_EMPTY_PATH: libc::c_uint = 0x8;
    let flags = FSPICK_CLOEXEC | FSPICK_EMPTY_PATH;
    // SAFETY: the path is static and empty.
    let fd = checked(unsafe { libc::syscall(libc::SYS_fspick, target.as_raw_fd(), c"".as_ptr(), flags) })?;
    // SAFETY: the kernel has just given us this descriptor, and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

/// Put a picked filesystem's new parameters into force.
pub fn reconfigure(context: BorrowedFd<'_>) -> Result<(), Errno> {
    configure(context, FSCONFIG_CMD_RECONFIGURE, None, None)
}

/// What the kernel says about the last mistake in a context, such as an unknown parameter, without its class letter.
pub fn last_message(context: BorrowedFd<'_>, buffer: &mut [u8]) -> usize {
    match nix::unistd::read(context, buffer) {
        Ok(length) if length > 2 => {
            buffer.copy_within(2..length, 0);
            length - 2
        }
        _ => 0,
    }
}

/// Attach a mount to the place that `target` is open on (move_mount(2)).
pub fn attach(mount: BorrowedFd<'_>, target: BorrowedFd<'_>) -> Result<(), Errno> {
    // SAFETY: both paths are static and empty.
    checked(unsafe {
        libc::syscall(
            libc::SYS_move_mount,
            mount.as_raw_fd(),
            c"".as_ptr(),
            target.as_raw_fd(),
            c"".as_ptr(),
            MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH,
        )
    })?;
    Ok(())
}

/// mount_setattr(2) on the mount that `mount` is the root of.
pub fn set_attributes(mount: BorrowedFd<'_>, attributes: &Attributes, depth: Depth) -> Result<(), Errno> {
    let flags = libc::AT_EMPTY_PATH as libc::c_uint | depth.flag();
    // SAFETY: the pointer and the size describe one live `Attributes`.
    checked(unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            c"".as_ptr(),
            flags,
            attributes as *const Attributes,
            size_of::<Attributes>(),
        )
    })?;
    Ok(())
}

/// Make the tree below the process's `/` propagate as told (`MS_SLAVE`, `MS_PRIVATE`, ...).
pub fn set_propagation_of_root(propagation: u64) -> Result<(), Errno> {
    let attributes = Attributes { propagation, ..Attributes::default() };
    // SAFETY: the path is static; the pointer and the size describe one live `Attributes`.
    checked(unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            libc::AT_FDCWD,
            c"/".as_ptr(),
            libc::AT_RECURSIVE as libc::c_uint,
            &attributes as *const Attributes,
            size_of::<Attributes>(),
        )
    })?;
    Ok(())
}

/// pivot_root(2) onto the current directory, with the old root left on top of it, to be taken off by [`detach_cwd`].
pub fn pivot_to_cwd() -> Result<(), Errno> {
    // SAFETY: both paths are static.
    checked(unsafe { libc::syscall(libc::SYS_pivot_root, c".".as_ptr(), c".".as_ptr()) })?;
    Ok(())
}

/// Lazily unmount what lies on the current directory.
pub fn detach_cwd() -> Result<(), Errno> {
    nix::mount::umount2(c".", nix::mount::MntFlags::MNT_DETACH)
}
