//! Who the process is, where it stands and what it runs. Runs in every process of a container.

use std::ffi::{CStr, CString};

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, AtFlags};
use nix::sys::stat::{Mode, SFlag, stat};
use nix::unistd::{AccessFlags, faccessat};

use super::{Failure, Init, Outcome};
use crate::plan::{CapabilitySets, SchedulerAttributes};
use crate::sys::creds::{self, ThreadSets};
use crate::sys::process;
use crate::wire::Note;

impl<'a> Init<'a> {
    /// The first candidate that is an executable file; else what was wrong with the one that came nearest.
    pub fn find_executable(&mut self, candidates: &'a [CString]) -> Outcome {
        let mut verdict = Errno::ENOENT;
        for (index, candidate) in candidates.iter().enumerate() {
            match executable(candidate) {
                Ok(()) => {
                    self.candidates = candidates;
                    self.executable = index;
                    return Ok(());
                }
                Err(Errno::ENOENT | Errno::ENOTDIR) if candidates.len() > 1 => {}
                Err(error) => verdict = error,
            }
        }
        Err(verdict.into())
    }

    pub fn execute(&self) -> Outcome {
        let path = self.candidates.get(self.executable).ok_or(Errno::ENOENT)?;
        let error = self.image.execute(path);
        Err(Failure::Step(error, Note::new(path.to_bytes())))
    }
}

fn executable(path: &CStr) -> Result<(), Errno> {
    let mode = SFlag::from_bits_truncate(stat(path)?.st_mode);
    if mode & SFlag::S_IFMT == SFlag::S_IFDIR {
        return Err(Errno::EISDIR);
    }
    faccessat(AT_FDCWD, path, AccessFlags::X_OK, AtFlags::AT_EACCESS)
}

/// Capabilities stay permitted over the change of user, and are made effective again for the steps that follow.
pub fn set_user(uid: u32, gid: u32, groups: Option<&[u32]>) -> Outcome {
    process::set_keep_capabilities(true)?;
    if let Some(groups) = groups {
        creds::set_groups(groups)?;
    }
    creds::set_gid(gid)?;
    creds::set_uid(uid)?;
    process::set_keep_capabilities(false)?;
    let sets = creds::capabilities()?;
    Ok(creds::set_capabilities(ThreadSets { effective: sets.permitted, ..sets })?)
}

/// The bounding set first, while CAP_SETPCAP is there; ambient last, since it needs the two that it is made of.
pub fn capabilities(sets: &CapabilitySets) -> Outcome {
    for capability in 0..u64::BITS {
        if sets.bounding & 1 << capability != 0 {
            continue;
        }
        match process::drop_bounding(capability) {
            Ok(()) => {}
            // Past the last capability that this kernel knows.
            Err(Errno::EINVAL) => break,
            Err(error) => return Err(error.into()),
        }
    }
    creds::set_capabilities(ThreadSets {
        effective: sets.effective,
        permitted: sets.permitted,
        inheritable: sets.inheritable,
    })?;
    process::clear_ambient()?;
    for capability in 0..u64::BITS {
        if sets.ambient & 1 << capability != 0 {
            process::raise_ambient(capability)?;
        }
    }
    Ok(())
}

pub fn umask(mask: u32) -> Outcome {
    nix::sys::stat::umask(Mode::from_bits_truncate(mask));
    Ok(())
}

/// CVE-2024-21626: a directory outside the root, reached through a leaked descriptor, has no path below it; getcwd(2)
/// then says `(unreachable)`, which libc reports as ENOENT.
pub fn working_directory(path: &CStr) -> Outcome {
    nix::unistd::chdir(path)?;
    match nix::unistd::getcwd() {
        Ok(_) => Ok(()),
        Err(error) => {
            Err(Failure::Step(error, Note::new(b"current working directory is outside of the container")))
        }
    }
}

pub fn scheduler(attributes: &SchedulerAttributes) -> Outcome {
    Ok(process::set_scheduler(&libc::sched_attr {
        size: size_of::<libc::sched_attr>() as u32,
        sched_policy: attributes.policy,
        sched_flags: attributes.flags,
        sched_nice: attributes.nice,
        sched_priority: attributes.priority,
        sched_runtime: attributes.runtime,
        sched_deadline: attributes.deadline,
        sched_period: attributes.period,
    })?)
}
