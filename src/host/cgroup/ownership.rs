//! Gives a container's group to the user that the container's process is on the host (config-linux.md, Cgroup
//! ownership). Runs outside, before anybody is in the group. Its limits stay the runtime's.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::lchown;
use std::path::Path;

use anyhow::{Context, Result};

use crate::plan::cgroup::Location;

/// Where the kernel lists the files that go with a group, one a line.
const LIST: &str = "/sys/kernel/cgroup/delegate";
/// The same for kernels that list nothing.
const ALWAYS: &str = "cgroup.procs\ncgroup.subtree_control\ncgroup.threads\n";

/// Only a group of v2 can be given away safely; the plan sees to it that there is no other.
pub fn give(location: &Location, uid: u32) -> Result<()> {
    let Some(place) = &location.v2 else { return Ok(()) };
    let directory = location.root.join(&place.hierarchy.directory).join(&place.path);
    let listed = fs::read_to_string(LIST).unwrap_or_else(|_| ALWAYS.to_string());
    give_directory(&directory, &listed, uid)
}

fn give_directory(directory: &Path, listed: &str, uid: u32) -> Result<()> {
    let chown = |path: &Path| lchown(path, Some(uid), None);
    let intent = || format!("give {} to user {uid}", directory.display());
    chown(directory).with_context(intent)?;
    for name in listed.lines().filter(|name| !name.is_empty() && !name.contains('/')) {
        match chown(&directory.join(name)) {
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            result => result.with_context(intent)?,
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    #[test]
    fn the_listed_files_go_with_the_directory_and_no_others() {
        if !nix::unistd::geteuid().is_root() {
            return;
        }
        let group = tempfile::tempdir().unwrap();
        let owner = |name: &str| fs::metadata(group.path().join(name)).unwrap().uid();
        for name in ["cgroup.procs", "memory.max"] {
            fs::write(group.path().join(name), "").unwrap();
        }
        give_directory(group.path(), "cgroup.procs\nnot.there\n../memory.max\n", 1234).unwrap();
        assert_eq!((owner("."), owner("cgroup.procs"), owner("memory.max")), (1234, 1234, 0));
    }
}
