//! What a container leaves on the host: processes, mounts, cgroups, files. Everything a bundle makes carries its
//! id in its name, so that tests in parallel do not see each other.
//! Runs in the tests, outside any container.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

#[derive(Default, PartialEq, Eq, Debug)]
pub struct Traces {
    pub processes: BTreeSet<i32>,
    pub mounts: BTreeSet<String>,
    pub cgroups: BTreeSet<PathBuf>,
    pub files: BTreeSet<PathBuf>,
}

impl Traces {
    /// All that carries `mark` on this machine, and every file below `directories`.
    pub fn of(mark: &str, directories: &[&Path]) -> Traces {
        let mut files = BTreeSet::new();
        for directory in directories {
            walk(directory, &mut |path, _| {
                files.insert(path.to_path_buf());
            });
        }
        Traces { processes: processes(mark), mounts: mounts(mark), cgroups: cgroups(mark), files }
    }

    #[track_caller]
    pub fn assert_same(&self, later: &Traces, after: &str) {
        let more = self.difference(later);
        assert!(more.is_empty(), "{after} left behind:\n{}", more.join("\n"));
        let fewer = later.difference(self);
        assert!(fewer.is_empty(), "{after} took away:\n{}", fewer.join("\n"));
    }

    fn difference(&self, later: &Traces) -> Vec<String> {
        let mut lines = Vec::new();
        lines.extend(later.processes.difference(&self.processes).map(|pid| describe(*pid)));
        lines.extend(later.mounts.difference(&self.mounts).map(|line| format!("mount {line}")));
        lines
            .extend(later.cgroups.difference(&self.cgroups).map(|path| format!("cgroup {}", path.display())));
        lines.extend(later.files.difference(&self.files).map(|path| format!("file {}", path.display())));
        lines
    }

    /// Takes away what a broken runtime left, so that the next test finds a clean machine.
    pub fn sweep(&self) {
        for pid in &self.processes {
            // It may have ended meanwhile.
            let _ = kill(Pid::from_raw(*pid), Signal::SIGKILL);
        }
        for cgroup in self.cgroups.iter().rev() {
            // Its last process may still be dying; the directory then stays for the reader of the failure.
            let _ = fs::remove_dir(cgroup);
        }
    }
}

fn describe(pid: i32) -> String {
    let words = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    format!("process {pid}: {}", String::from_utf8_lossy(&words).replace('\0', " "))
}

/// Living processes whose command, executable, directory or cgroup names the mark.
fn processes(mark: &str) -> BTreeSet<i32> {
    let pids = fs::read_dir("/proc").expect("list /proc").flatten();
    pids.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter(|pid| names(*pid, mark))
        .collect()
}

fn names(pid: i32, mark: &str) -> bool {
    let process = PathBuf::from(format!("/proc/{pid}"));
    let stat = fs::read_to_string(process.join("stat")).unwrap_or_default();
    let mut fields = stat.rsplit_once(") ").map_or("", |(_, rest)| rest).split(' ');
    let zombie = fields.next().is_none_or(|state| ["", "Z", "X"].contains(&state));
    // What the kernel runs itself, to tell systemd which v1 group is empty.
    let agent = fields.next() == Some("2");
    if zombie || agent || pid == std::process::id() as i32 {
        return false;
    }
    let reads = ["cmdline", "cgroup"].iter().any(|file| {
        let text = fs::read(process.join(file)).unwrap_or_default();
        String::from_utf8_lossy(&text).contains(mark)
    });
    reads
        || ["exe", "cwd"].iter().any(|link| {
            fs::read_link(process.join(link)).is_ok_and(|target| target.to_string_lossy().contains(mark))
        })
}

fn mounts(mark: &str) -> BTreeSet<String> {
    let table = fs::read_to_string("/proc/self/mountinfo").expect("read mountinfo");
    table.lines().filter(|line| line.contains(mark)).map(String::from).collect()
}

/// The directories that bear the mark, on every hierarchy.
fn cgroups(mark: &str) -> BTreeSet<PathBuf> {
    let mut found = BTreeSet::new();
    for hierarchy in hierarchies() {
        walk(&hierarchy, &mut |path, is_directory| {
            if is_directory && path.to_string_lossy().contains(mark) {
                found.insert(path.to_path_buf());
            }
        });
    }
    found
}

/// Below which group containers have theirs, where it is not the root: what a user was given (`rootless.rs`).
pub fn delegated() -> Option<String> {
    std::env::var("CORTEN_DELEGATED").ok()
}

/// Where containers have their groups: the cgroup hierarchies of the host, of either version.
pub fn hierarchies() -> Vec<PathBuf> {
    let table = fs::read_to_string("/proc/self/mountinfo").expect("read mountinfo");
    let cgroup = |line: &&str| line.contains(" - cgroup ") || line.contains(" - cgroup2 ");
    let mounted = table.lines().filter(cgroup).filter_map(|line| line.split(' ').nth(4)).map(PathBuf::from);
    mounted.map(|hierarchy| hierarchy.join(delegated().unwrap_or_default())).collect()
}

/// Visits everything below a directory, without following links. What vanishes meanwhile is not there.
fn walk(directory: &Path, visit: &mut impl FnMut(&Path, bool)) {
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        let is_directory = entry.file_type().is_ok_and(|kind| kind.is_dir());
        visit(&entry.path(), is_directory);
        if is_directory {
            walk(&entry.path(), visit);
        }
    }
}
