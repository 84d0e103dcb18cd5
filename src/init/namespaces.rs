//! Entering namespaces, from inside. Runs in init or a guest, first of all.

use std::ffi::CStr;
use std::os::fd::AsFd;

use nix::errno::Errno;
use nix::sched::{CloneFlags, setns};

use super::{Failure, Init, Outcome};
use crate::plan::{Namespace, Slot};
use crate::sys;
use crate::wire::Note;

impl Init<'_> {
    pub fn join(&self, kind: Namespace, slot: Slot) -> Outcome {
        Ok(setns(self.slot(slot)?, CloneFlags::from_bits_retain(kind.flag()))?)
    }

    pub fn join_process(&self, slot: Slot, flags: i32) -> Outcome {
        Ok(setns(self.slot(slot)?, CloneFlags::from_bits_retain(flags))?)
    }

    /// setns(2) takes a lone thread into the time namespace that it made for its children, so no second clone is
    /// needed; the offsets must be there before anybody is in it (time_namespaces(7)).
    pub fn time_offsets(&self, text: &CStr) -> Outcome {
        unshare(libc::CLONE_NEWTIME)?;
        let procfs = self.procfs()?;
        if !text.is_empty() {
            let offsets = procfs.own_file(c"self/timens_offsets", libc::O_WRONLY)?;
            sys::fd::write_once(offsets.as_fd(), text.to_bytes())?;
        }
        let own = procfs.own_file(c"self/ns", libc::O_PATH | libc::O_DIRECTORY)?;
        let made = sys::path::open_namespace(own.as_fd(), c"time_for_children")?;
        Ok(setns(made, CloneFlags::from_bits_retain(libc::CLONE_NEWTIME))?)
    }
}

pub fn unshare(flags: i32) -> Outcome {
    Ok(nix::sched::unshare(CloneFlags::from_bits_retain(flags))?)
}

/// Ids that have no mapping leave nothing to become; then the plan has no such step.
pub fn take_root() -> Outcome {
    match sys::creds::set_groups(&[]) {
        // Where setgroups is denied the groups of whoever called us stay (user_namespaces(7)).
        Ok(()) | Err(Errno::EPERM) => {}
        Err(error) => return Err(error.into()),
    }
    sys::creds::set_gid(0)?;
    Ok(sys::creds::set_uid(0)?)
}

pub fn session_keyring(name: &CStr) -> Outcome {
    match sys::creds::join_session_keyring(name) {
        // A kernel without keyrings has none to inherit by mistake.
        Ok(()) | Err(Errno::ENOSYS) => Ok(()),
        Err(Errno::EDQUOT) => {
            let hint =
                b"this user has no room for another: raise kernel.keys.maxkeys or use --no-new-keyring";
            Err(Failure::Step(Errno::EDQUOT, Note::new(hint)))
        }
        Err(error) => Err(Failure::from(error)),
    }
}
