//! Who the process is, where it stands and what it runs. Runs in every process of a container.

use std::ffi::{CStr, CString};
use std::os::fd::AsFd;

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, AtFlags, OFlag, open};
use nix::sys::stat::{Mode, SFlag, fstat, stat};
use nix::unistd::{AccessFlags, faccessat, read};

use super::hooks::decimal;
use super::{Failure, Init, Outcome};
use crate::plan::{CapabilitySets, SchedulerAttributes};
use crate::sys::creds::{self, ThreadSets};
use crate::sys::path::{is_inside_root, open_in_root};
use crate::sys::process;
use crate::sys::procfs::Procfs;
use crate::wire::Note;

/// More of a passwd file is not read.
const LONGEST_PASSWD: usize = 1 << 20;

impl<'a> Init<'a> {
    /// The one file of the container whose text init reads, because only here it is the one that the process will see.
    pub fn home(&mut self, uid: u32) -> Outcome {
        let text = passwd(self.procfs()?)?;
        let home = home_in_passwd(&text, uid).unwrap_or(b"/");
        let variable = CString::new([b"HOME=", home].concat()).map_err(|_| Errno::EINVAL)?;
        self.image.add_variable(variable);
        Ok(())
    }

    /// The first candidate that is an executable file; else what was wrong with the one that came nearest.
    pub fn find_executable(&mut self, candidates: &'a [CString], in_path: bool) -> Outcome {
        let mut verdict = Failure::from(Errno::ENOENT);
        for (index, candidate) in candidates.iter().enumerate() {
            match executable(candidate) {
                Ok(()) => {
                    self.candidates = candidates;
                    self.executable = index;
                    return Ok(());
                }
                Err(Errno::ENOENT | Errno::ENOTDIR) if in_path => {}
                Err(error) => verdict = Failure::Step(error, Note::new(candidate.to_bytes())),
            }
        }
        Err(verdict)
    }

    /// CVE-2024-21626: a directory outside the root, reached through a leaked descriptor, has no path below it.
    pub fn working_directory(&mut self, path: &CStr, again: bool) -> Outcome {
        if self.in_place {
            return Ok(());
        }
        match nix::unistd::chdir(path) {
            Err(Errno::EACCES) if !again => return Ok(()),
            result => result?,
        }
        if !is_inside_root()? {
            let outside = b"current working directory is outside of the container";
            return Err(Failure::Step(Errno::ENOENT, Note::new(outside)));
        }
        self.in_place = true;
        Ok(())
    }

    pub fn execute(&self) -> Outcome {
        let path = self.candidates.get(self.executable).ok_or(Errno::ENOENT)?;
        let error = self.image.execute(path);
        Err(Failure::Step(error, Note::new(path.to_bytes())))
    }
}

/// The text of `/etc/passwd`, which is empty where something else stands (a fifo, a directory) or nothing.
/// Looked at before it is opened: to open a fifo may wait for ever, and a device may do anything.
fn passwd(procfs: &Procfs) -> Result<Vec<u8>, Errno> {
    let root = open(c"/", OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty())?;
    let Ok(place) = open_in_root(root.as_fd(), c"etc/passwd", libc::O_PATH, 0) else { return Ok(Vec::new()) };
    let found = fstat(&place)?;
    if SFlag::from_bits_truncate(found.st_mode) & SFlag::S_IFMT != SFlag::S_IFREG {
        return Ok(Vec::new());
    }
    let file = procfs.reopen(place.as_fd(), libc::O_RDONLY)?;
    let mut text = vec![0; LONGEST_PASSWD.min(found.st_size as usize)];
    let mut length = 0;
    while length < text.len() {
        match read(&file, &mut text[length..]) {
            Ok(0) => break,
            Ok(count) => length += count,
            Err(Errno::EINTR) => {}
            Err(error) => return Err(error),
        }
    }
    text.truncate(length);
    Ok(text)
}

/// The sixth field of the user's line (passwd(5)).
fn home_in_passwd(text: &[u8], uid: u32) -> Option<&[u8]> {
    let mut digits = [0; 10];
    let uid = decimal(uid, &mut digits);
    text.split(|byte| *byte == b'\n').find_map(|line| {
        let mut fields = line.split(|byte| *byte == b':');
        (fields.nth(2)? == uid).then(|| fields.nth(2)).flatten().filter(|home| !home.is_empty())
    })
}

/// EACCES is the kernel's only no to a file that it has just shown. Anything else is said by a filter that was loaded
/// early, from a profile without faccessat2(2): the mode has to do then, and execve(2) has the last word.
fn executable(path: &CStr) -> Result<(), Errno> {
    let mode = stat(path)?.st_mode;
    if SFlag::from_bits_truncate(mode) & SFlag::S_IFMT == SFlag::S_IFDIR {
        return Err(Errno::EISDIR);
    }
    match faccessat(AT_FDCWD, path, AccessFlags::X_OK, AtFlags::AT_EACCESS) {
        Err(error) if error == Errno::EACCES || mode & 0o111 == 0 => Err(Errno::EACCES),
        _ => Ok(()),
    }
}

/// Capabilities stay permitted over the change of user, and are made effective again for the steps that follow.
pub fn set_user(uid: u32, gid: u32, groups: Option<&[u32]>) -> Outcome {
    process::set_keep_capabilities(true)?;
    if let Some(groups) = groups {
        match creds::set_groups(groups) {
            // A joined user namespace may deny setgroups, which only matters to whoever asked for groups.
            Err(Errno::EPERM) if groups.is_empty() => {}
            result => result?,
        }
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

#[cfg(test)]
mod tests {
    use super::home_in_passwd;

    #[test]
    fn home_is_what_passwd_says_about_the_uid() {
        let text =
            b"root:x:0:0:root:/root:/bin/sh\nbroken\nwww:x:33:33::/var/www:/bin/false\nnone:x:7:7:::\n";
        assert_eq!(home_in_passwd(text, 33), Some(b"/var/www".as_slice()));
        assert_eq!(home_in_passwd(text, 0), Some(b"/root".as_slice()));
        assert_eq!(home_in_passwd(text, 3), None);
        assert_eq!(home_in_passwd(text, 7), None);
        assert_eq!(home_in_passwd(b"", 0), None);
    }
}
