//! One invocation of the runtime: words in, exit status and what it printed out, with a deadline.
//! Runs in the tests. Knows nothing of containers.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use serde_json::Value;

/// Long enough for a loaded machine; nothing that works comes near it.
pub const DEADLINE: Duration = Duration::from_secs(30);

/// Whether everything takes long: in the virtual machine (`hack/vm`).
pub fn is_emulated() -> bool {
    std::env::var_os("CORTEN_EMULATED").is_some()
}

/// All of them; where everything takes long no more than `most`, and others each time, so that in the long run all are
/// tried. `CORTEN_THOROUGH=1` asks for all of them there too.
pub fn affordable<T>(all: impl IntoIterator<Item = T>, most: usize) -> Vec<T> {
    let all: Vec<T> = all.into_iter().collect();
    let thorough = !is_emulated() || std::env::var("CORTEN_THOROUGH").is_ok_and(|wish| wish == "1");
    let stride = if thorough { 1 } else { all.len().div_ceil(most).max(1) };
    all.into_iter().skip(std::process::id() as usize % stride).step_by(stride).collect()
}

/// Words not yet spoken. Output goes to files, since a container keeps its creator's stdout open.
pub struct Call {
    pub command: Command,
    stdout: PathBuf,
    stderr: PathBuf,
}

impl Call {
    pub fn new(program: impl AsRef<OsStr>, scratch: &Path) -> Call {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let (stdout, stderr) = (scratch.join(format!("{number}.out")), scratch.join(format!("{number}.err")));
        let mut command = Command::new(program);
        command.stdin(Stdio::null());
        command.stdout(File::create(&stdout).expect("create a file for stdout"));
        command.stderr(File::create(&stderr).expect("create a file for stderr"));
        Call { command, stdout, stderr }
    }

    pub fn arg(mut self, word: impl AsRef<OsStr>) -> Call {
        self.command.arg(word);
        self
    }

    pub fn args<W: AsRef<OsStr>>(mut self, words: impl IntoIterator<Item = W>) -> Call {
        self.command.args(words);
        self
    }

    pub fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Call {
        self.command.env(name, value);
        self
    }

    pub fn stdin(mut self, stdin: impl Into<Stdio>) -> Call {
        self.command.stdin(stdin);
        self
    }

    pub fn spawn(mut self) -> Running {
        let child = self.command.spawn().unwrap_or_else(|error| panic!("spawn {:?}: {error}", self.command));
        let words = format!("{:?}", self.command);
        Running { child, words, stdout: self.stdout, stderr: self.stderr }
    }

    pub fn output(self) -> Output {
        self.spawn().wait()
    }
}

pub struct Running {
    pub child: Child,
    words: String,
    stdout: PathBuf,
    stderr: PathBuf,
}

impl Running {
    pub fn pid(&self) -> i32 {
        self.child.id() as i32
    }

    /// What it printed so far.
    pub fn stdout(&self) -> String {
        read(&self.stdout)
    }

    pub fn wait(self) -> Output {
        self.wait_within(DEADLINE)
    }

    pub fn wait_within(mut self, deadline: Duration) -> Output {
        let ended = ends(self.pid(), deadline);
        if !ended {
            self.child.kill().expect("kill what hangs");
        }
        let status = self.child.wait().expect("wait for the call");
        let output = Output { words: self.words, status, stdout: self.stdout, stderr: read(&self.stderr) };
        assert!(ended, "still running after {deadline:?}: {output}");
        output
    }
}

pub struct Output {
    pub words: String,
    pub status: std::process::ExitStatus,
    pub stderr: String,
    stdout: PathBuf,
}

impl Output {
    /// What was printed until now: a container may still be writing.
    pub fn stdout(&self) -> String {
        read(&self.stdout)
    }

    /// The exit code as a shell counts it.
    pub fn code(&self) -> i32 {
        self.status.code().unwrap_or_else(|| 128 + self.status.signal().unwrap_or(0))
    }

    #[track_caller]
    pub fn ok(self) -> Output {
        assert_eq!(self.code(), 0, "{self}");
        self
    }

    /// Refused: the exit status, one line on stderr, and these phrases in it.
    #[track_caller]
    pub fn refused(self, code: i32, phrases: &[&str]) -> Output {
        assert_eq!(self.code(), code, "{self}");
        assert_eq!(self.stderr.lines().count(), 1, "an error is one line: {self}");
        for phrase in phrases {
            assert!(self.stderr.contains(phrase), "no {phrase:?} in: {self}");
        }
        self
    }

    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.stdout()).unwrap_or_else(|error| panic!("not JSON, {error}: {self}"))
    }
}

impl std::fmt::Display for Output {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Output { words, status, stderr, .. } = self;
        write!(f, "{words}\n{status}\nstdout: {}\nstderr: {stderr}", self.stdout())
    }
}

fn read(path: &Path) -> String {
    String::from_utf8_lossy(&fs::read(path).expect("read what was printed")).into_owned()
}

/// Whether a process of ours ends before the deadline. It stays a zombie.
pub fn ends(pid: i32, deadline: Duration) -> bool {
    let pid = Pid::from_raw(pid).expect("a pid");
    let Ok(pidfd) = pidfd_open(pid, PidfdFlags::empty()) else { return true };
    let timeout = deadline.try_into().expect("a timeout");
    poll(&mut [PollFd::new(&pidfd, PollFlags::IN)], Some(&timeout)).expect("poll a pidfd") == 1
}

/// Asks until there is an answer, with a deadline.
#[track_caller]
pub fn eventually<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(start.elapsed() < DEADLINE, "never happened: {what}");
        thread::sleep(Duration::from_millis(2));
    }
}
