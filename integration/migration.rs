//! Checkpoints on their way to another machine: memory over the network, at once or when it is asked for; what the other
//! machine calls differently. With real programs of criu's at the other end.

use std::fs;
use std::io::Read;
use std::net::TcpListener;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use rustix::pipe::fcntl_setpipe_size;
use serde_json::json;

use crate::bundle::{Bundle, skip};
use crate::call::{Running, eventually};
use crate::criu::{PATIENCE, criu_bundle, has};
use crate::labels::Profile;

/// A program of criu's that serves until it has been made use of.
struct Server(Child);

impl Server {
    fn start(bundle: &Bundle, words: &[&str], directories: [&Path; 2]) -> Server {
        let log = fs::File::create(bundle.scratch().join("server.log")).unwrap();
        let mut command = Command::new("criu");
        command.args(words).arg("-D").arg(directories[0]).arg("-W").arg(directories[1]);
        command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        Server(command.spawn().expect("start criu"))
    }

    fn ends(&mut self) {
        eventually("the server ends", || self.0.try_wait().unwrap());
        assert!(self.0.wait().unwrap().success());
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn terminate(running: &Running) {
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(running.pid()), nix::sys::signal::Signal::SIGTERM)
        .unwrap();
}

/// One that nobody listens at.
fn port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

fn is_listened_at(port: u16) -> bool {
    let listening = format!(":{port:04X} 00000000:0000 0A");
    fs::read_to_string("/proc/net/tcp").unwrap().contains(&listening)
}

/// A checkpoint that serves memory, as soon as it says so.
fn serving(bundle: &Bundle, port: u16) -> Running {
    let (mut ready, says) = std::io::pipe().unwrap();
    let mut call = bundle
        .call(["checkpoint", "--lazy-pages", "--status-fd", "1", "--page-server"])
        .arg(format!("127.0.0.1:{port}"))
        .arg("--image-path")
        .arg(bundle.images())
        .arg("--work-path")
        .arg(bundle.scratch().join("work"))
        .arg(&bundle.id);
    call.command.stdout(says);
    let mut running = call.spawn();
    let mut byte = [1];
    if ready.read_exact(&mut byte).is_err() {
        panic!("it serves nothing: {:?}", running.child.wait());
    }
    assert_eq!(byte, [0]);
    running
}

/// Leaves a test of lazily served memory where criu cannot do it.
macro_rules! lazy_bundle {
    () => {{
        let bundle = criu_bundle!();
        if !has("uffd-noncoop") {
            skip!("criu cannot serve pages lazily on this kernel");
        }
        // criu takes for granted that it may have one of three megabytes (PIPE_MAX_SIZE of its page-pipe.h).
        if fcntl_setpipe_size(std::io::pipe().unwrap().0, 3 << 20).is_err() {
            skip!("without CAP_SYS_RESOURCE, fs.pipe-max-size is too small for criu's lazy pages");
        }
        bundle
    }};
}

#[test]
fn memory_is_fetched_when_the_restored_container_wants_it() {
    let mut bundle = lazy_bundle!();
    bundle.counting();
    let port = port();
    let checkpoint = serving(&bundle, port);
    // The first one stands still, and its memory is in no image.
    let count = bundle.count();
    bundle.assert_status("running");

    let work = bundle.scratch().join("lazy");
    fs::create_dir(&work).unwrap();
    let port = port.to_string();
    let words = ["lazy-pages", "--page-server", "--address", "127.0.0.1", "--port", &port];
    let mut server = Server::start(&bundle, &words, [&bundle.images(), &work]);
    eventually("the server has its socket", || work.join("lazy-pages.socket").exists().then_some(()));
    let other = bundle.renamed();
    let restore = bundle.restoring_as(&other, &["--detach", "--lazy-pages"]).arg("--work-path").arg(&work);
    restore.spawn().wait_within(PATIENCE).ok();
    eventually("it counts on", || (bundle.count() > count + 3).then_some(()));

    // All is fetched, and the first one is where the second one is now.
    checkpoint.wait_within(PATIENCE).ok();
    server.ends();
    assert_eq!(bundle.wait(), 128 + 9);
    bundle.verb("state", &[]).refused(1, &["does not exist"]);
    let count = bundle.count();
    eventually("it counts on alone", || (bundle.count() > count + 3).then_some(()));
    bundle.call(["delete", "--force", &other]).output().ok();
}

#[test]
fn a_container_whose_memory_nobody_fetched_goes_on() {
    let mut bundle = lazy_bundle!();
    bundle.counting();
    let port = port();
    let checkpoint = serving(&bundle, port);
    let count = bundle.count();
    terminate(&checkpoint);
    checkpoint.wait_within(PATIENCE).refused(1, &["interrupted by a signal"]);
    bundle.assert_counts_on_from(count);
}

#[test]
fn a_restore_that_waits_for_memory_in_vain_can_be_ended() {
    let mut bundle = lazy_bundle!();
    bundle.counting();
    let checkpoint = serving(&bundle, port());
    let work = bundle.scratch().join("lazy");
    fs::create_dir(&work).unwrap();
    // It takes all that it is given, and gives nothing.
    let listener = UnixListener::bind(work.join("lazy-pages.socket")).unwrap();
    let other = bundle.renamed();
    let restore = bundle.restoring_as(&other, &["--lazy-pages"]).arg("--work-path").arg(&work).spawn();
    let server = listener.accept().unwrap();
    terminate(&restore);
    restore.wait_within(PATIENCE).refused(1, &["interrupted by a signal"]);
    drop(server);
    assert!(!bundle.state_root().join(&other).exists());
    terminate(&checkpoint);
    checkpoint.wait_within(PATIENCE).refused(1, &["interrupted by a signal"]);
    bundle.assert_counts_on_from(bundle.count());
}

#[test]
fn memory_can_be_sent_to_a_page_server() {
    let mut bundle = criu_bundle!();
    bundle.counting();
    let sent = bundle.scratch().join("sent");
    fs::create_dir(&sent).unwrap();
    let port = port();
    let words = ["page-server", "--address", "127.0.0.1", "--port", &port.to_string()];
    let mut server = Server::start(&bundle, &words, [&sent, &sent]);
    eventually("the server listens", || is_listened_at(port).then_some(()));
    bundle.dump(&["--page-server", &format!("127.0.0.1:{port}")]);
    server.ends();
    let pages = |directory: &Path| -> Vec<_> {
        let files = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
        files.filter(|path| path.file_name().unwrap().to_string_lossy().starts_with("page")).collect()
    };
    assert!(pages(&bundle.images()).is_empty(), "memory is among the images");
    assert!(!pages(&sent).is_empty(), "nothing was sent");
    for file in pages(&sent) {
        fs::rename(&file, bundle.images().join(file.file_name().unwrap())).unwrap();
    }
    let count = bundle.count();
    bundle.restore(&[]).ok();
    bundle.assert_counts_on_from(count);
}

#[test]
fn a_restored_process_is_confined_as_the_other_machine_calls_it() {
    let mut bundle = criu_bundle!();
    let load = |tail: &str| Profile::load(&format!("{}-{tail}", bundle.id), "/secret");
    let (here, there) = match (load("here"), load("there")) {
        (Ok(here), Ok(there)) => (here, there),
        (Err(reason), _) | (_, Err(reason)) => skip!("{reason}"),
    };
    bundle.set("/process/apparmorProfile", json!(here.0));
    bundle.counting();
    let label = |bundle: &Bundle| {
        let path = format!("/proc/{}/attr/apparmor/current", bundle.pid());
        fs::read_to_string(path).unwrap().trim().to_string()
    };
    assert_eq!(label(&bundle), format!("{} (enforce)", here.0));
    bundle.dump(&[]);
    let count = bundle.count();
    bundle.restore(&["--lsm-profile", "nothing"]).refused(1, &["is not TYPE:NAME"]);
    // It is not the image that says so.
    bundle.set("/process/apparmorProfile", json!(there.0)).write_config();
    bundle.restore(&[]).refused(1, &["process.apparmorProfile", &here.0, &there.0]);
    bundle.assert_nothing_left("a failed restore");
    bundle.set("/process/apparmorProfile", json!(here.0)).write_config();
    let profile = format!("apparmor:{}", there.0);
    bundle.restore(&["--lsm-profile", &profile]).ok();
    assert_eq!(label(&bundle), format!("{} (enforce)", there.0));
    bundle.assert_counts_on_from(count);
}

#[test]
fn a_container_is_restored_into_a_scope_of_systemds() {
    let mut bundle = criu_bundle!();
    if !Path::new("/run/systemd/system").exists() {
        skip!("systemd does not run this machine");
    }
    bundle.set("/linux/cgroupsPath", json!(format!("system.slice:t:{}", bundle.id)));
    bundle.set("/linux/resources/pids", json!({"limit": 7}));
    bundle.set("/root/readonly", json!(false)).shell("exec >/dev/null 2>&1; while sleep 0.1; do :; done");
    let call = bundle.call(["--systemd-cgroup", "create", "--bundle"]).arg(bundle.path());
    bundle.write_config();
    call.arg("--pid-file").arg(bundle.pid_file()).arg(&bundle.id).output().ok();
    bundle.start().ok();
    bundle.dump(&[]);
    let restore = bundle.call(["--systemd-cgroup", "restore", "--detach", "--image-path"]);
    let restore = restore.arg(bundle.images()).arg("--bundle").arg(bundle.path());
    let restore = restore.arg("--pid-file").arg(bundle.pid_file()).arg(&bundle.id);
    restore.spawn().wait_within(PATIENCE).ok();
    let unit = format!("t-{}.scope", bundle.id);
    let shown = |property: &str| {
        let output = Command::new("systemctl").args(["show", "--value", "-p", property, &unit]).output();
        String::from_utf8(output.unwrap().stdout).unwrap().trim().to_string()
    };
    assert_eq!((shown("ActiveState").as_str(), shown("TasksMax").as_str()), ("active", "7"));
    let groups_of = |pid: i32| fs::read_to_string(format!("/proc/{pid}/cgroup")).ok();
    // Each of its children lives for a tenth of a second.
    let child = eventually("it has a child", || groups_of(child_of(bundle.pid())));
    for groups in [groups_of(bundle.pid()).unwrap(), child] {
        assert!(groups.contains(&format!("/system.slice/{unit}")), "{groups}");
    }
    assert!(bundle.exec(&["/bin/cat", "/proc/self/cgroup"]).ok().stdout().lines().count() > 0);
    bundle.verb("delete", &["--force"]).ok();
    bundle.wait();
    assert_ne!(shown("ActiveState"), "active");
}

fn child_of(pid: i32) -> i32 {
    let path = format!("/proc/{pid}/task/{pid}/children");
    eventually("it has a child", || fs::read_to_string(&path).ok()?.split_whitespace().next()?.parse().ok())
}
