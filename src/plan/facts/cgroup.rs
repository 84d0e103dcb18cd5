//! Which cgroup hierarchies this host has, and where.
//!
//! Runs outside, on every create. Looks at `/proc/self/cgroup` and one statfs(2) per hierarchy; only a hierarchy
//! that is not where everybody mounts it costs a walk through mountinfo.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::sys::statfs::{CGROUP_SUPER_MAGIC, CGROUP2_SUPER_MAGIC, statfs};

use crate::plan::cgroup::{CgroupLayout, Hierarchy, Version};

/// The hierarchies mounted at and below `root`, which is `/sys/fs/cgroup`. None at all is a fact too.
pub fn layout(root: &Path) -> Result<CgroupLayout> {
    let mut layout = CgroupLayout { root: root.to_owned(), ..CgroupLayout::default() };
    let only_v2 = mounted(root)? == Some(Version::V2);
    let groups = read(Path::new("/proc/self/cgroup"))?;
    let mut mountinfo = None;
    // ID:CONTROLLERS:PATH, without controllers for v2 (cgroups(7)).
    for listed in groups.lines().filter_map(|line| line.split(':').nth(1)) {
        let directory = match listed {
            "" if only_v2 => Some(PathBuf::new()),
            _ if only_v2 => None,
            _ => find_directory(root, listed, &mut mountinfo)?,
        };
        // A hierarchy that exists but is mounted nowhere has no files to write: its limits are refused by name.
        let Some(directory) = directory else { continue };
        if listed.is_empty() {
            let controllers = read(&root.join(&directory).join("cgroup.controllers"))?;
            let controllers = controllers.split_whitespace().map(String::from).collect();
            layout.v2 = Some(Hierarchy { controllers, directory });
        } else {
            let controllers = listed.split(',').map(String::from).collect();
            layout.v1.push(Hierarchy { controllers, directory });
        }
    }
    Ok(layout)
}

/// Our own group on v2, relative to the mount point.
pub fn own_group() -> Result<PathBuf> {
    Ok(unified_group(&read(Path::new("/proc/self/cgroup"))?))
}

/// `/proc/self/cgroup` lists it as `0::/PATH`.
fn unified_group(groups: &str) -> PathBuf {
    let listed = groups.lines().find_map(|line| line.strip_prefix("0::/"));
    PathBuf::from(listed.unwrap_or_default())
}

fn find_directory(root: &Path, listed: &str, mountinfo: &mut Option<String>) -> Result<Option<PathBuf>> {
    let version = if listed.is_empty() { Version::V2 } else { Version::V1 };
    for usual in usual_directories(listed) {
        if mounted(&root.join(usual))? == Some(version) {
            return Ok(Some(PathBuf::from(usual)));
        }
    }
    let mountinfo = match mountinfo {
        Some(text) => text,
        None => mountinfo.insert(read(Path::new("/proc/self/mountinfo"))?),
    };
    Ok(find_mount(mountinfo, listed)
        .map(|found| found.strip_prefix(root).map(PathBuf::from).unwrap_or(found)))
}

/// Where a hierarchy usually is: under its own name, under one of its controllers' (a link), or at `unified`.
fn usual_directories(listed: &str) -> Vec<&str> {
    if listed.is_empty() {
        return vec!["unified"];
    }
    let plain = listed.strip_prefix("name=").unwrap_or(listed);
    let mut directories = vec![plain];
    if plain.contains(',') {
        directories.extend(plain.split(','));
    }
    directories
}

/// The mount point of the hierarchy that `/proc/self/cgroup` lists like this (proc_pid_mountinfo(5)).
fn find_mount(mountinfo: &str, listed: &str) -> Option<PathBuf> {
    mountinfo.lines().find_map(|line| {
        let (mount, filesystem) = line.split_once(" - ")?;
        let mut filesystem = filesystem.split(' ');
        let found = match (filesystem.next()?, listed) {
            ("cgroup2", "") => true,
            ("cgroup", listed) if !listed.is_empty() => {
                let options = filesystem.nth(1)?;
                listed.split(',').all(|controller| options.split(',').any(|option| option == controller))
            }
            _ => false,
        };
        found.then(|| mount.split(' ').nth(4).map(PathBuf::from))?
    })
}

fn mounted(path: &Path) -> Result<Option<Version>> {
    match statfs(path).map(|filesystem| filesystem.filesystem_type()) {
        Ok(CGROUP2_SUPER_MAGIC) => Ok(Some(Version::V2)),
        Ok(CGROUP_SUPER_MAGIC) => Ok(Some(Version::V1)),
        Ok(_) | Err(Errno::ENOENT) => Ok(None),
        Err(errno) => Err(errno).with_context(|| format!("look at {}", path.display())),
    }
}

/// In one read(2), as a rule: the kernel composes these texts anew at each.
fn read(path: &Path) -> Result<String> {
    const USUAL: usize = 4096;
    let mut text = String::with_capacity(USUAL);
    File::open(path)
        .and_then(|mut file| file.read_to_string(&mut text))
        .with_context(|| format!("read {}", path.display()))?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOUNTINFO: &str = "\
        24 1 0:22 / /sys/fs/cgroup/accounting rw shared:8 - cgroup cgroup rw,cpu,cpuacct\n\
        25 1 0:23 / /cgroup/sd rw - cgroup none rw,xattr,name=systemd\n\
        26 1 0:24 / /sys/fs/cgroup/two rw - cgroup2 none rw,nsdelegate\n";

    #[test]
    fn a_renamed_hierarchy_is_found_in_mountinfo() {
        let find = |listed| find_mount(MOUNTINFO, listed);
        assert_eq!(find("cpuacct,cpu"), Some(PathBuf::from("/sys/fs/cgroup/accounting")));
        assert_eq!(find("name=systemd"), Some(PathBuf::from("/cgroup/sd")));
        assert_eq!(find(""), Some(PathBuf::from("/sys/fs/cgroup/two")));
        assert_eq!(find("memory"), None);
    }

    #[test]
    fn a_hierarchy_is_looked_for_under_all_its_usual_names() {
        assert_eq!(usual_directories("cpu,cpuacct"), ["cpu,cpuacct", "cpu", "cpuacct"]);
        assert_eq!(usual_directories("name=systemd"), ["systemd"]);
        assert_eq!(usual_directories(""), ["unified"]);
    }

    #[test]
    fn our_own_group_is_the_one_of_hierarchy_zero() {
        assert_eq!(
            unified_group("1:name=systemd:/a\n0::/user.slice/b.scope\n"),
            Path::new("user.slice/b.scope")
        );
        assert_eq!(unified_group("0::/\n"), Path::new(""));
    }

    #[test]
    fn a_root_that_is_no_cgroup_mount_has_no_hierarchies_below_it() {
        let root = tempfile::tempdir().unwrap();
        let layout = layout(root.path()).unwrap();
        // What is found is found through mountinfo, outside of this root.
        assert!(layout.v1.iter().chain(&layout.v2).all(|hierarchy| hierarchy.directory.is_absolute()));
    }

    #[test]
    fn every_hierarchy_of_this_host_is_a_cgroup_mount() {
        let layout = layout(Path::new("/sys/fs/cgroup")).unwrap();
        for hierarchy in &layout.v1 {
            assert_eq!(mounted(&layout.mount_point(hierarchy)).unwrap(), Some(Version::V1));
        }
        if let Some(hierarchy) = &layout.v2 {
            assert_eq!(mounted(&layout.mount_point(hierarchy)).unwrap(), Some(Version::V2));
        }
    }
}
