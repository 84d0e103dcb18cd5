//! The fixture: a bundle with busybox and the witness in its rootfs, a state root of its own, and the runtime's verbs.
//! Dropped, it deletes its container by force and fails the test if anything of it is left on the machine.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::{env, thread};

use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::call::{Call, DEADLINE, Output, ends, eventually};
use crate::traces::{Traces, delegated};

const APPLETS: &str = "cat chmod chown cp cut dd df echo env false grep hostname id ifconfig ionice kill ln ls mkdir \
                       mkfifo mknod mount mv nice nproc printf ps pwd readlink rm sed setsid sh sleep sort stat \
                       stty sync tail test touch tr true tty umount uname wc";

/// The runtime under test.
pub fn runtime() -> PathBuf {
    env::var_os("CORTEN").map_or_else(|| env!("CARGO_BIN_EXE_corten").into(), PathBuf::from)
}

/// Says why a test cannot run here, and lists it in the file that `CORTEN_SKIPPED` names.
pub fn skipped(reason: &str) {
    let test = thread::current().name().unwrap_or("a test").to_string();
    println!("skipped: {test}: {reason}");
    if let Some(list) = env::var_os("CORTEN_SKIPPED") {
        use std::io::Write;
        let mut list = fs::OpenOptions::new().append(true).create(true).open(list).expect("open the list");
        writeln!(list, "{test}: {reason}").expect("write to the list");
    }
}

/// Leaves a test that lacks what it needs. Only for real absence: no root, no such kernel feature.
macro_rules! skip {
    ($($reason:tt)*) => {{
        $crate::bundle::skipped(&format!($($reason)*));
        return;
    }};
}

/// A bundle, or the end of a test that only root can make. Others make those that `rootless.rs` lists.
macro_rules! bundle {
    () => {{
        if !nix::unistd::geteuid().is_root() && !$crate::rootless::is_for_users() {
            skip!("needs root");
        }
        $crate::bundle::Bundle::new()
    }};
}

pub(crate) use {bundle, skip};

/// Numbers all that must not be the same twice.
static COUNT: AtomicU32 = AtomicU32::new(0);

pub struct Bundle {
    /// The container's id; also the mark that everything it makes on the host carries.
    pub id: String,
    pub config: Value,
    /// The program under test, or a copy of it that a test may lose.
    pub runtime: PathBuf,
    dir: Option<TempDir>,
}

impl Bundle {
    pub fn new() -> Bundle {
        // Engines are subreapers: a container's init becomes their child, and they wait for it.
        nix::sys::prctl::set_child_subreaper(true).expect("become a subreaper");
        let id = format!("corten-test-{}-{:04}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let dir = tempfile::Builder::new().prefix(&format!("{id}-")).tempdir().expect("make a directory");
        // Containers with a user namespace walk through it as nobody in particular.
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).expect("open the directory");
        let mut config = default_config();
        // Nothing else is different for a user without root: it gets no group but where one is delegated.
        match delegated() {
            Some(group) => config["linux"]["cgroupsPath"] = json!(format!("/{group}/{id}")),
            None if nix::unistd::geteuid().is_root() => {
                config["linux"]["cgroupsPath"] = json!(format!("/{id}"));
            }
            None => {}
        }
        let bundle = Bundle { id, config, runtime: runtime(), dir: Some(dir) };
        for directory in [bundle.rootfs(), bundle.scratch()] {
            fs::create_dir_all(&directory).expect("make a directory");
        }
        fill(&bundle.rootfs());
        bundle
    }

    fn dir(&self) -> &Path {
        self.dir.as_ref().expect("there until dropped").path()
    }

    pub fn path(&self) -> PathBuf {
        self.dir().join("bundle")
    }

    pub fn rootfs(&self) -> PathBuf {
        self.path().join("rootfs")
    }

    /// The runtime's `--root`.
    pub fn state_root(&self) -> PathBuf {
        self.dir().join("state")
    }

    /// A place for a test's own files, outside the bundle.
    pub fn scratch(&self) -> PathBuf {
        self.dir().join("scratch")
    }

    /// Takes one member out of the config, by the pointer of the object that holds it.
    pub fn unset(&mut self, pointer: &str, member: &str) -> &mut Bundle {
        let object = self.config.pointer_mut(pointer).and_then(Value::as_object_mut).expect("an object");
        object.remove(member);
        self
    }

    /// Sets one value by its JSON pointer; the way to it is made.
    pub fn set(&mut self, pointer: &str, value: Value) -> &mut Bundle {
        set(&mut self.config, pointer, value);
        self
    }

    pub fn args(&mut self, args: &[&str]) -> &mut Bundle {
        self.set("/process/args", json!(args))
    }

    /// Runs a line of busybox's shell.
    pub fn shell(&mut self, line: &str) -> &mut Bundle {
        self.args(&["/bin/sh", "-c", line])
    }

    pub fn mount(&mut self, mount: Value) -> &mut Bundle {
        self.config["mounts"].as_array_mut().expect("mounts").push(mount);
        self
    }

    /// Lists a namespace, in the place of one of the same type.
    pub fn add_namespace(&mut self, namespace: Value) -> &mut Bundle {
        self.drop_namespace(namespace["type"].as_str().expect("a type"));
        self.namespaces().push(namespace);
        self
    }

    pub fn drop_namespace(&mut self, kind: &str) -> &mut Bundle {
        self.namespaces().retain(|namespace| namespace["type"] != kind);
        self
    }

    fn namespaces(&mut self) -> &mut Vec<Value> {
        self.config["linux"]["namespaces"].as_array_mut().expect("namespaces")
    }

    /// All that the test itself may do, in all five sets, and privileges that may be gained.
    pub fn privileged(&mut self) -> &mut Bundle {
        let own = caps::read(None, caps::CapSet::Bounding).expect("read the bounding set");
        let names: Vec<String> = own.iter().map(ToString::to_string).collect();
        for set in ["bounding", "effective", "permitted", "inheritable", "ambient"] {
            self.config["process"]["capabilities"][set] = json!(names);
        }
        self.set("/process/noNewPrivileges", json!(false))
    }

    /// Puts a program of these bytes into the image.
    pub fn program(&self, path: &str, bytes: impl AsRef<[u8]>) {
        let draft = self.scratch().join("draft");
        fs::write(&draft, bytes).expect("write a draft");
        install(&draft, &self.rootfs().join(path));
    }

    /// A copy of the runtime, which may be lost or run by anybody.
    pub fn copy_of_runtime(&self) -> PathBuf {
        let copy = self.scratch().join(self.runtime.file_name().expect("a name"));
        install(&self.runtime, &copy);
        copy
    }

    pub fn write_config(&self) {
        let text = serde_json::to_string_pretty(&self.config).expect("print the config");
        fs::write(self.path().join("config.json"), text).expect("write config.json");
    }

    /// The runtime with these words behind its global options.
    pub fn call<W: AsRef<OsStr>>(&self, words: impl IntoIterator<Item = W>) -> Call {
        Call::new(&self.runtime, &self.scratch()).arg("--root").arg(self.state_root()).args(words)
    }

    pub fn pid_file(&self) -> PathBuf {
        self.scratch().join("pid")
    }

    /// `create` or `run` with options, config written.
    pub fn birth(&self, verb: &str, options: &[&str]) -> Call {
        self.write_config();
        let call = self.call([verb]).arg("--bundle").arg(self.path()).arg("--pid-file").arg(self.pid_file());
        call.args(options).arg(&self.id)
    }

    pub fn create(&self) -> Output {
        self.birth("create", &[]).output()
    }

    pub fn run(&self) -> Output {
        self.birth("run", &[]).output()
    }

    pub fn start(&self) -> Output {
        self.verb("start", &[])
    }

    pub fn delete(&self) -> Output {
        self.verb("delete", &[])
    }

    pub fn kill(&self, signal: &str) -> Output {
        self.call(["kill", &self.id, signal]).output()
    }

    pub fn exec(&self, args: &[&str]) -> Output {
        self.call(["exec", &self.id]).args(args).output()
    }

    /// A second process that goes on by itself; says its pid. Like engines, the fixture waits for it in the end.
    pub fn exec_detached(&self, options: &[&str], args: &[&str]) -> i32 {
        let pid_file = self.scratch().join(format!("exec-{}.pid", COUNT.fetch_add(1, Ordering::Relaxed)));
        let call = self.call(["exec", "--detach", "--pid-file"]).arg(&pid_file).args(options);
        call.arg(&self.id).args(args).output().ok();
        read_pid(&pid_file).expect("a pid file")
    }

    /// A verb, its options, the id.
    pub fn verb(&self, verb: &str, options: &[&str]) -> Output {
        self.call([verb]).args(options).arg(&self.id).output()
    }

    pub fn state(&self) -> Value {
        self.verb("state", &[]).ok().json()
    }

    #[track_caller]
    pub fn assert_status(&self, status: &str) {
        assert_eq!(self.state()["status"], status);
    }

    /// Init's pid, from the pid file.
    pub fn pid(&self) -> i32 {
        read_pid(&self.pid_file()).expect("a pid file")
    }

    /// Waits until init ended and says how: the exit code as a shell counts it.
    pub fn wait(&self) -> i32 {
        wait_for(self.pid())
    }

    /// What the witness reports as the container's process.
    #[track_caller]
    pub fn report(&mut self) -> Value {
        self.args(&["/witness", "report"]);
        self.run().ok().json()
    }

    /// A container that runs until it is killed; the file is its output.
    #[track_caller]
    pub fn running(&mut self) -> Output {
        self.args(&["/witness", "signal-wait"]);
        let output = self.create().ok();
        self.start().ok();
        eventually("the witness waits for a signal", || output.stdout().contains("ready").then_some(()));
        output
    }

    pub fn traces(&self) -> Traces {
        Traces::of(&self.id, &[&self.path(), &self.state_root()])
    }

    fn leftovers(&self) -> Traces {
        Traces::of(&self.id, &[&self.state_root()])
    }

    /// No process, mount, cgroup or state. The image may keep mount points that were made in it.
    #[track_caller]
    pub fn assert_nothing_left(&self, after: &str) {
        Traces::default().assert_same(&self.leftovers(), after);
    }

    /// A pid namespace does not end before those who wait for its processes did so.
    fn reap_execs(&self) {
        let files = fs::read_dir(self.scratch()).into_iter().flatten().flatten().map(|entry| entry.path());
        for path in files.filter(|path| path.extension() == Some(OsStr::new("pid"))) {
            if let Some(pid) = read_pid(&path) {
                // Either may have happened before.
                let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
                let _ = waitpid(Pid::from_raw(pid), None);
            }
        }
    }

    /// Waits for what has ended in the container and was left to the test, as to any subreaper. Only v2 tells the group
    /// of who has ended; the pid namespace can be told everywhere.
    pub fn reap_orphans(&self) {
        let all = fs::read_dir("/proc").expect("list /proc").flatten();
        let reads =
            |pid: i32, file: &str| fs::read_to_string(format!("/proc/{pid}/{file}")).unwrap_or_default();
        let namespace = |pid: u32| fs::read_link(format!("/proc/{pid}/ns/pid")).ok();
        let theirs = read_pid(&self.pid_file()).and_then(|init| namespace(init as u32));
        let theirs = theirs.filter(|theirs| Some(theirs) != namespace(std::process::id()).as_ref());
        let is_ours = |pid: i32| {
            reads(pid, "cgroup").contains(&self.id) || (theirs.is_some() && namespace(pid as u32) == theirs)
        };
        let ended = all
            .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
            .filter(|pid| reads(*pid, "stat").contains(") Z ") && is_ours(*pid));
        for pid in ended {
            // Not every one is ours.
            let _ = waitpid(Pid::from_raw(pid), Some(WaitPidFlag::WNOHANG));
        }
    }

    fn reap_init(&self) {
        if let Some(pid) = read_pid(&self.pid_file()) {
            // A container that ran in the foreground was reaped by its runtime.
            let _ = waitpid(Pid::from_raw(pid), Some(WaitPidFlag::WNOHANG));
        }
    }
}

fn read_pid(path: &Path) -> Option<i32> {
    let text = fs::read_to_string(path).ok()?;
    Some(text.parse().unwrap_or_else(|error| panic!("{text:?} is no pid: {error}")))
}

/// Waits for a process that became a child of the test: the exit code as a shell counts it.
pub fn wait_for(pid: i32) -> i32 {
    assert!(ends(pid, DEADLINE), "process {pid} still runs");
    match waitpid(Pid::from_raw(pid), None) {
        Ok(WaitStatus::Exited(_, code)) => code,
        Ok(WaitStatus::Signaled(_, signal, _)) => 128 + signal as i32,
        other => panic!("wait for {pid}: {other:?}"),
    }
}

impl Drop for Bundle {
    fn drop(&mut self) {
        let failed = thread::panicking();
        self.reap_execs();
        let delete = self.verb("delete", &["--force"]);
        let deleted = (delete.code() == 0, delete.to_string());
        self.reap_init();
        let left = self.leftovers();
        left.sweep();
        let dir = self.dir.take().expect("there until dropped");
        if left.mounts.is_empty() {
            drop(dir);
        } else {
            // Removing it would remove what is mounted there.
            println!("kept {}", dir.keep().display());
        }
        if !failed {
            assert!(deleted.0, "{}", deleted.1);
            Traces::default().assert_same(&left, &format!("delete --force {}", self.id));
        }
    }
}

/// Sets one value by its JSON pointer; objects on the way are made, a list's index may be one past its end.
pub fn set(config: &mut Value, pointer: &str, value: Value) {
    let mut place = config;
    for key in pointer.split('/').skip(1) {
        place = match (place.is_array(), key.parse::<usize>()) {
            (true, Ok(index)) => {
                let list = place.as_array_mut().expect("a list");
                if index == list.len() {
                    list.push(Value::Null);
                }
                &mut list[index]
            }
            _ => &mut place[key],
        };
    }
    *place = value;
}

/// busybox and the witness, hard-linked where the file system allows it.
fn fill(rootfs: &Path) {
    for directory in ["bin", "dev", "etc", "proc", "root", "sys", "tmp"] {
        fs::create_dir(rootfs.join(directory)).expect("make a directory");
    }
    fs::write(
        rootfs.join("etc/passwd"),
        "root:x:0:0:root:/root:/bin/sh\nweb:x:1000:1000::/home/web:/bin/sh\n",
    )
    .expect("write passwd");
    fs::write(rootfs.join("etc/group"), "root:x:0:\nweb:x:1000:\n").expect("write group");
    place(payloads().0.as_path(), &rootfs.join("bin/busybox"));
    place(payloads().1.as_path(), &rootfs.join("witness"));
    for applet in APPLETS.split_whitespace() {
        symlink("busybox", rootfs.join("bin").join(applet)).expect("link an applet");
    }
}

fn place(program: &Path, target: &Path) {
    if fs::hard_link(program, target).is_err() {
        install(program, target);
    }
}

/// Copies a program. By another process, since a file that is open here for writing is busy, and cannot be executed,
/// for as long as a child that a parallel test forked in that moment holds it too.
pub fn install(program: &Path, target: &Path) {
    let status = Command::new("install").args(["-m", "755"]).args([program, target]).status();
    assert!(status.is_ok_and(|status| status.success()), "install {}", program.display());
}

/// A copy of the host's busybox (a container must not be able to write to the host's own), and the witness.
pub fn payloads() -> &'static (PathBuf, PathBuf) {
    static PAYLOADS: OnceLock<(PathBuf, PathBuf)> = OnceLock::new();
    PAYLOADS.get_or_init(|| {
        let own = env::current_exe().expect("this test's path");
        let witness = own.ancestors().nth(2).expect("the build directory").join("examples/witness");
        // A user's tests run from a copy of all that they need.
        let mut busybox = witness.with_file_name("busybox");
        if !busybox.exists() {
            busybox = Path::new(env!("CARGO_TARGET_TMPDIR")).join("busybox");
            let copy = busybox.with_extension(std::process::id().to_string());
            install(Path::new("/bin/busybox"), &copy);
            fs::rename(&copy, &busybox).expect("rename the copy");
        }
        assert!(witness.exists(), "{} is missing: cargo build --example witness", witness.display());
        (busybox, witness)
    })
}

/// What `spec` writes, without a terminal.
pub fn default_config() -> Value {
    let mut config: Value = serde_json::from_str(include_str!("../config.json.example")).expect("an example");
    config["process"]["terminal"] = json!(false);
    config
}
