//! Resource control groups: directories of the resctrl filesystem, made, entered and removed.
//!
//! Runs outside. Which group, and what it is told, `plan/resctrl.rs` has decided.

mod stats;

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

use crate::plan::resctrl::{MEMBER, ResctrlPlan, mismatch};

const SCHEMATA: &str = "schemata";
const TASKS: &str = "tasks";

/// A container's group, as it is remembered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resctrl {
    /// Where the filesystem is mounted.
    root: PathBuf,
    group: PathBuf,
    /// Its monitoring group, which is always its own.
    monitor: Option<PathBuf>,
    /// Whether the group ends with the container.
    remove: bool,
}

/// Where the host has mounted resctrl.
pub fn mount_point() -> Result<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").context("read /proc/self/mountinfo")?;
    find_mount(&mounts).with_context(|| {
        format!("config.json: {MEMBER}: no resctrl filesystem is mounted (mount -t resctrl resctrl /sys/fs/resctrl)")
    })
}

/// The mount point of the first resctrl in a table of mounts (proc(5), mountinfo).
fn find_mount(mountinfo: &str) -> Option<PathBuf> {
    mountinfo.lines().find_map(|line| {
        let (mount, filesystem) = line.split_once(" - ")?;
        (filesystem.split(' ').next() == Some("resctrl"))
            .then(|| mount.split(' ').nth(4).map(PathBuf::from))?
    })
}

impl Resctrl {
    /// The group that is to be made, or entered, below `root`. Nothing is changed. Until [`Resctrl::settle`] what is
    /// not there yet is remembered as ours to remove, in case we do not live to finish.
    pub fn survey(root: &Path, plan: &ResctrlPlan) -> Result<Resctrl> {
        let group = root.join(&plan.group);
        let monitor = plan.monitor.as_ref().map(|name| group.join("mon_groups").join(name));
        let exists = is_there(&group)?;
        let place = group.display();
        match (plan.named, exists) {
            (true, false) if plan.schemata.is_empty() => {
                bail!(
                    "config.json: {MEMBER}.closID: {place} does not exist, and no schema says what it should be"
                )
            }
            (true, true) => {
                let present = read(&group.join(SCHEMATA))?;
                if let Some(line) = mismatch(&plan.expected, &present) {
                    bail!("config.json: {MEMBER}: {place} exists, and its schemata are not {line}");
                }
            }
            (false, true) => bail!("config.json: {MEMBER}: {place} exists, and belongs to somebody else"),
            (_, false) => {}
        }
        if let Some(monitor) = &monitor
            && is_there(monitor)?
        {
            bail!("config.json: {MEMBER}: {} exists, and belongs to somebody else", monitor.display());
        }
        Ok(Resctrl { root: root.to_path_buf(), group, monitor, remove: !exists })
    }

    /// Make what is not there, and tell the group what it is to be.
    pub fn make(&mut self, plan: &ResctrlPlan) -> Result<()> {
        if self.remove {
            let made = fs::create_dir(&self.group);
            // What somebody has made since the survey is not ours to remove.
            self.remove = made.is_ok();
            made.with_context(|| self.intent("make", &self.group))?;
        }
        if !plan.schemata.is_empty() {
            self.write_schemata(&plan.schemata)?;
        }
        match &self.monitor {
            Some(monitor) => fs::create_dir(monitor).with_context(|| self.intent("make", monitor)),
            None => Ok(()),
        }
    }

    /// A group that the configuration names outlives the container, even if we have made it.
    pub fn settle(&mut self, plan: &ResctrlPlan) {
        self.remove &= !plan.named;
    }

    /// Put a process into the group, with all that it will start.
    pub fn admit(&self, pid: i32) -> Result<()> {
        for group in [Some(&self.group), self.monitor.as_ref()].into_iter().flatten() {
            self.write(&group.join(TASKS), &pid.to_string())?;
        }
        Ok(())
    }

    /// The lines that the group has now.
    pub fn schemata(&self) -> Result<String> {
        read(&self.group.join(SCHEMATA))
    }

    /// All lines in one write, so that the kernel takes all of them or none.
    pub fn write_schemata(&self, lines: &[String]) -> Result<()> {
        self.write(&self.group.join(SCHEMATA), &format!("{}\n", lines.join("\n")))
    }

    pub fn remove(&self) -> Result<()> {
        let group = self.remove.then_some(&self.group);
        for directory in [self.monitor.as_ref(), group].into_iter().flatten() {
            match fs::remove_dir(directory) {
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                result => result.with_context(|| format!("remove {}", directory.display()))?,
            }
        }
        Ok(())
    }

    /// The same, of a container that never had a process: who is in the group is somebody else's, and the kernel would
    /// remove it under them.
    pub fn remove_unused(&self) -> Result<()> {
        let tasks =
            [Some(&self.group), self.monitor.as_ref()].into_iter().flatten().map(|group| group.join(TASKS));
        for tasks in tasks {
            match fs::read_to_string(&tasks) {
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Ok(text) if text.trim().is_empty() => {}
                Ok(_) => return Ok(()),
                Err(error) => return Err(error).with_context(|| format!("read {}", tasks.display())),
            }
        }
        self.remove()
    }

    fn write(&self, file: &Path, text: &str) -> Result<()> {
        fs::write(file, text).with_context(|| self.intent(&format!("write {:?} to", text.trim_end()), file))
    }

    /// With the kernel's own words on why it refused the last thing, if it has any.
    fn intent(&self, verb: &str, place: &Path) -> String {
        let said = fs::read_to_string(self.root.join("info/last_cmd_status")).unwrap_or_default();
        let said = match said.trim() {
            "" | "ok" => String::new(),
            reason => format!(" ({reason})"),
        };
        format!("config.json: {MEMBER}: {verb} {}{said}", place.display())
    }
}

fn is_there(directory: &Path) -> Result<bool> {
    fs::exists(directory).with_context(|| format!("look at {}", directory.display()))
}

fn read(file: &Path) -> Result<String> {
    fs::read_to_string(file).with_context(|| format!("read {}", file.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(group: &str, named: bool, schemata: &[&str]) -> ResctrlPlan {
        let schemata: Vec<String> = schemata.iter().map(|line| line.to_string()).collect();
        ResctrlPlan { group: group.into(), named, expected: schemata.clone(), schemata, monitor: None }
    }

    /// A directory that looks like resctrl. What the kernel makes in a new group is left out, so that it can be
    /// removed as it can there.
    fn filesystem() -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir_all(root.path().join("info")).unwrap();
        fs::write(root.path().join("info/last_cmd_status"), "ok\n").unwrap();
        fs::create_dir_all(root.path().join("mon_groups")).unwrap();
        fs::create_dir_all(root.path().join("gold/mon_groups")).unwrap();
        fs::write(root.path().join("gold/schemata"), "    L3:0=00f\n").unwrap();
        root
    }

    fn refusal(root: &Path, plan: &ResctrlPlan) -> String {
        Resctrl::survey(root, plan).unwrap_err().to_string()
    }

    #[test]
    fn a_group_of_its_own_ends_with_the_container() {
        let root = filesystem();
        let plan = plan("web", false, &["L3:0=f", "MB:0=20"]);
        let mut group = Resctrl::survey(root.path(), &plan).unwrap();
        group.make(&plan).unwrap();
        group.settle(&plan);
        assert_eq!(fs::read_to_string(root.path().join("web/schemata")).unwrap(), "L3:0=f\nMB:0=20\n");
        group.admit(42).unwrap();
        assert_eq!(fs::read_to_string(root.path().join("web/tasks")).unwrap(), "42");
        // A second container of this name would share a group that the first one's end removes.
        assert!(refusal(root.path(), &plan).ends_with("web exists, and belongs to somebody else"));
        fs::remove_file(root.path().join("web/schemata")).unwrap();
        fs::remove_file(root.path().join("web/tasks")).unwrap();
        group.remove().unwrap();
        assert!(!root.path().join("web").exists());
        group.remove().unwrap();
    }

    #[test]
    fn a_named_group_outlives_a_container_but_not_a_failed_birth() {
        let root = filesystem();
        let plan = plan("silver", true, &["L3:0=3"]);
        let mut group = Resctrl::survey(root.path(), &plan).unwrap();
        group.make(&plan).unwrap();
        fs::remove_file(root.path().join("silver/schemata")).unwrap();
        let failed = group.clone();
        group.settle(&plan);
        group.remove().unwrap();
        assert!(root.path().join("silver").exists());
        failed.remove().unwrap();
        assert!(!root.path().join("silver").exists());
    }

    #[test]
    fn a_group_that_others_are_in_is_not_that_of_a_container_without_a_process() {
        let root = filesystem();
        let plan = plan("web", false, &[]);
        let killed = Resctrl::survey(root.path(), &plan).unwrap();
        Resctrl::survey(root.path(), &plan).unwrap().make(&plan).unwrap();
        let tasks = root.path().join("web/tasks");
        fs::write(&tasks, "42\n").unwrap();
        killed.remove_unused().unwrap();
        assert_eq!(fs::read_to_string(&tasks).unwrap(), "42\n");
        fs::remove_file(&tasks).unwrap();
        killed.remove_unused().unwrap();
        assert!(!root.path().join("web").exists());
    }

    #[test]
    fn a_named_group_that_exists_must_be_what_is_asked_for() {
        let root = filesystem();
        let found = Resctrl::survey(root.path(), &plan("gold", true, &["L3:0=f"])).unwrap();
        found.remove().unwrap();
        assert!(root.path().join("gold").exists());
        let other = refusal(root.path(), &plan("gold", true, &["L3:0=1"]));
        assert!(other.ends_with("gold exists, and its schemata are not L3:0=1"), "{other}");
        let missing = refusal(root.path(), &plan("bronze", true, &[]));
        assert!(
            missing.ends_with("bronze does not exist, and no schema says what it should be"),
            "{missing}"
        );
    }

    #[test]
    fn a_monitoring_group_is_always_the_containers_own() {
        let root = filesystem();
        let plan = ResctrlPlan { monitor: Some("web".into()), ..plan("gold", true, &[]) };
        let mut group = Resctrl::survey(root.path(), &plan).unwrap();
        group.make(&plan).unwrap();
        group.admit(7).unwrap();
        let monitor = root.path().join("gold/mon_groups/web");
        assert_eq!(fs::read_to_string(monitor.join("tasks")).unwrap(), "7");
        fs::remove_file(monitor.join("tasks")).unwrap();
        group.remove().unwrap();
        assert!(!monitor.exists());
        assert!(root.path().join("gold").exists());
    }

    #[test]
    fn the_kernels_own_words_are_passed_on() {
        let root = filesystem();
        let plan = plan("web", false, &[]);
        let group = Resctrl::survey(root.path(), &plan).unwrap();
        fs::write(root.path().join("info/last_cmd_status"), "Not enough CLOSIDs\n").unwrap();
        let refused = group.admit(1).unwrap_err().to_string();
        assert!(refused.ends_with("web/tasks (Not enough CLOSIDs)"), "{refused}");
    }

    #[test]
    fn the_mount_is_found_by_its_filesystem_and_not_by_its_name() {
        let table = "\
            22 1 0:21 / /sys/fs/resctrl rw shared:7 - tmpfs resctrl rw\n\
            31 22 0:30 / /mnt/rdt rw,nosuid shared:9 - resctrl none rw,mba_MBps\n";
        assert_eq!(find_mount(table).unwrap(), Path::new("/mnt/rdt"));
        assert_eq!(find_mount(table.lines().next().unwrap()), None);
    }
}
