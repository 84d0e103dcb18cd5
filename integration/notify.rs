//! Readiness (sd_notify(3)): the test is the service manager that `NOTIFY_SOCKET` names.

use std::fs;
use std::io::IoSliceMut;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;

use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use serde_json::json;

use crate::bundle::{Bundle, bundle, skip};
use crate::call::{Call, DEADLINE, Running, eventually};

struct Manager {
    socket: UnixDatagram,
    path: PathBuf,
}

impl Manager {
    fn new(bundle: &Bundle) -> Manager {
        let path = bundle.scratch().join("manager.sock");
        let socket = UnixDatagram::bind(&path).expect("listen");
        socket.set_read_timeout(Some(DEADLINE)).expect("a timeout");
        Manager { socket, path }
    }

    fn of(&self, call: Call) -> Call {
        call.env("NOTIFY_SOCKET", &self.path)
    }

    /// The next message, and a descriptor that came with it.
    #[track_caller]
    fn hears(&self) -> (String, Option<OwnedFd>) {
        let mut space = [MaybeUninit::uninit(); 256];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let mut text = [0; 4096];
        let message =
            recvmsg(&self.socket, &mut [IoSliceMut::new(&mut text)], &mut ancillary, RecvFlags::CMSG_CLOEXEC)
                .expect("hear something");
        let fds = ancillary.drain().filter_map(|message| match message {
            RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
            _ => None,
        });
        (String::from_utf8_lossy(&text[..message.bytes]).into_owned(), fds.last())
    }

    #[track_caller]
    fn hears_only(&self, text: &str) {
        let (said, fd) = self.hears();
        assert_eq!((said.as_str(), fd.is_some()), (text, false));
    }

    /// A barrier holds its sender until the descriptor is dropped.
    #[track_caller]
    fn hears_a_barrier(&self) -> OwnedFd {
        let (said, fd) = self.hears();
        assert_eq!(said, "BARRIER=1");
        fd.expect("a descriptor")
    }

    fn has_heard_all(&self) -> bool {
        self.socket.set_nonblocking(true).expect("not to wait");
        self.socket.recv(&mut [0; 64]).is_err()
    }
}

/// `start`, and whether it still runs after a while in which it could have ended.
fn start(bundle: &Bundle, manager: &Manager) -> Running {
    let running = manager.of(bundle.call(["start", &bundle.id])).spawn();
    eventually("the container runs", || (bundle.state()["status"] == "running").then_some(()));
    running
}

fn ends_soon(running: &Running) -> bool {
    crate::call::ends(running.pid(), std::time::Duration::from_millis(100))
}

#[test]
fn start_returns_when_the_container_is_ready_and_the_manager_knows() {
    for user in [0, 1000] {
        let mut bundle = bundle!();
        bundle.set("/process/user", json!({"uid": user, "gid": user}));
        bundle.shell(
            "while ! [ -e /go ]; do sleep 0.01; done; /witness notify STATUS=almost READY=1; exec sleep 60",
        );
        let manager = Manager::new(&bundle);
        manager.of(bundle.birth("create", &[])).output().ok();
        let running = start(&bundle, &manager);
        assert!(!ends_soon(&running), "it is not ready");
        fs::write(bundle.rootfs().join("go"), "").unwrap();
        manager.hears_only("STATUS=almost\n");
        manager.hears_only(&format!("READY=1\nMAINPID={}\n", bundle.pid()));
        let barrier = manager.hears_a_barrier();
        assert!(!ends_soon(&running), "the manager has not heard");
        drop(barrier);
        running.wait().ok();
        bundle.verb("delete", &["--force"]).ok();
        bundle.assert_nothing_left("a container that was ready");
    }
}

#[test]
fn run_hands_on_what_the_container_says_for_as_long_as_it_lives() {
    for terminal in [false, true] {
        let mut bundle = bundle!();
        bundle.set("/process/terminal", json!(terminal));
        bundle
            .shell("/witness notify READY=1 WATCHDOG=1; /witness notify-barrier; /witness notify STOPPING=1");
        let manager = Manager::new(&bundle);
        let running = manager.of(bundle.birth("run", &[])).spawn();
        manager.hears_only(&format!("READY=1\nMAINPID={}\n", running.pid()));
        manager.hears_only("WATCHDOG=1\n");
        let barrier = manager.hears_a_barrier();
        assert!(!ends_soon(&running));
        assert_eq!(running.stdout(), "");
        drop(barrier);
        manager.hears_only("STOPPING=1\n");
        let output = running.wait().ok();
        assert_eq!(output.stdout().trim_end(), "heard");
        bundle.assert_nothing_left("run");
    }
}

#[test]
fn a_container_cannot_speak_of_processes_and_descriptors_of_the_host() {
    let mut bundle = bundle!();
    bundle.shell("/witness notify MAINPID=1 NOTIFYACCESS=all 'FDSTORE=1' 'MAINPID=1\nREADY=1\nMAINPID=2'");
    let manager = Manager::new(&bundle);
    let running = manager.of(bundle.birth("run", &[])).spawn();
    manager.hears_only(&format!("READY=1\nMAINPID={}\n", running.pid()));
    running.wait().ok();
    assert!(manager.has_heard_all());
}

#[test]
fn a_detached_run_returns_when_the_container_is_ready() {
    let mut bundle = bundle!();
    bundle.shell("sleep 0.2; /witness notify READY=1; sleep 60");
    let manager = Manager::new(&bundle);
    let running = manager.of(bundle.birth("run", &["--detach"])).spawn();
    let (said, _) = manager.hears();
    assert_eq!(said, format!("READY=1\nMAINPID={}\n", bundle.pid()));
    drop(manager.hears_a_barrier());
    running.wait().ok();
    bundle.assert_status("running");
}

#[test]
fn a_container_with_a_user_namespace_reaches_the_manager() {
    let mut bundle = bundle!();
    crate::namespaces::map_users(&mut bundle);
    bundle.set("/process/user", json!({"uid": 7, "gid": 7})).args(&["/witness", "notify", "READY=1"]);
    let manager = Manager::new(&bundle);
    let running = manager.of(bundle.birth("run", &[])).spawn();
    manager.hears_only(&format!("READY=1\nMAINPID={}\n", running.pid()));
    running.wait().ok();
}

#[test]
fn start_does_not_wait_for_a_container_that_has_ended() {
    let mut bundle = bundle!();
    bundle.args(&["/bin/true"]);
    let manager = Manager::new(&bundle);
    manager.of(bundle.birth("create", &[])).output().ok();
    manager.of(bundle.call(["start", &bundle.id])).output().ok();
    assert!(manager.has_heard_all());
    assert_eq!(bundle.wait(), 0);
}

#[test]
fn others_can_act_on_a_container_that_start_waits_for() {
    let mut bundle = bundle!();
    bundle.args(&["/bin/sleep", "60"]);
    let manager = Manager::new(&bundle);
    manager.of(bundle.birth("create", &[])).output().ok();
    let running = start(&bundle, &manager);
    assert_eq!(bundle.exec(&["/bin/sh", "-c", "echo \"[$NOTIFY_SOCKET]\""]).ok().stdout(), "[]\n");
    bundle.verb("delete", &["--force"]).ok();
    running.wait().ok();
    bundle.assert_nothing_left("delete --force");
}

#[test]
fn a_container_that_has_a_socket_of_its_own_keeps_it() {
    let mut bundle = bundle!();
    bundle.set("/process/env", json!(["PATH=/bin", "NOTIFY_SOCKET=/its/own"]));
    bundle.shell("echo $NOTIFY_SOCKET; ls /run/notify 2>&1");
    let manager = Manager::new(&bundle);
    let output = manager.of(bundle.birth("run", &[])).output();
    assert!(output.stdout().starts_with("/its/own\nls: "), "{output}");
    assert!(manager.has_heard_all());
}

/// As with an environment that has outlived its service.
#[test]
fn a_manager_that_does_not_listen_keeps_nobody_from_running() {
    let mut bundle = bundle!();
    bundle.shell("exit 3");
    for manager in ["/no/such/socket", "@nobody", &format!("/{}", "x".repeat(200))] {
        let output = bundle.birth("run", &[]).env("NOTIFY_SOCKET", manager).output();
        assert_eq!(output.code(), 3, "{output}");
        bundle.assert_nothing_left(manager);
    }
}

#[test]
fn a_flood_of_descriptors_neither_stops_nor_fills_the_runtime() {
    let mut bundle = bundle!();
    bundle.shell("i=0; while [ $i -lt 20 ]; do /witness notify-flood; i=$((i+1)); done; /witness notify READY=1; sleep 60");
    let manager = Manager::new(&bundle);
    let running = manager.of(bundle.birth("run", &[])).spawn();
    manager.hears_only(&format!("READY=1\nMAINPID={}\n", running.pid()));
    let open = fs::read_dir(format!("/proc/{}/fd", running.pid())).unwrap().count();
    assert!(open < 20, "{open} descriptors are open");
    bundle.kill("KILL").ok();
    assert_eq!(running.wait().code(), 128 + 9);
}
