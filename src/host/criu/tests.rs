//! The conversation with a peer that follows a script in criu's place.

use std::os::fd::AsRawFd;

use super::*;
use crate::sys::fd::is_open;

/// A criu that has not ended: its process is this one.
fn criu() -> (Criu, OwnedFd) {
    let (socket, peer) = pair().unwrap();
    let pidfd = crate::sys::process::open_pidfd(std::process::id() as i32).unwrap();
    let output = program::memory_file().unwrap();
    (Criu { started: Started { pid: std::process::id() as i32, pidfd }, socket, output }, peer)
}

const VERSION: &[u8] = b"\x08\x0a\x10\x01\x52\x04\x08\x04\x10\x01";
const NEEDS: Needs =
    Needs { version: (3, 16), place: None, features: Features { mem_track: false, lazy_pages: false } };
const DUMPED: &[u8] = b"\x08\x01\x10\x01";

/// `type: NOTIFY success: true notify { script: SCRIPT pid: 7 }`
fn notice(script: &str) -> Vec<u8> {
    let length = script.len() as u8;
    let mut bytes = vec![0x08, 6, 0x10, 1, 0x2a, length + 4, 0x0a, length];
    bytes.extend(script.as_bytes());
    bytes.extend([0x10, 7]);
    bytes
}

/// The peer says one thing for each that it hears; what it heard.
fn follow(peer: OwnedFd, script: Vec<Vec<u8>>) -> std::thread::JoinHandle<Vec<Vec<u8>>> {
    std::thread::spawn(move || {
        let mut heard = Vec::new();
        for line in script {
            let mut buffer = [0; 256];
            let length = nix::unistd::read(&peer, &mut buffer).unwrap();
            heard.push(buffer[..length].to_vec());
            nix::unistd::write(&peer, &line).unwrap();
        }
        heard
    })
}

fn ask(
    script: Vec<Vec<u8>>,
    heed: impl FnMut(&Notice, Option<OwnedFd>) -> Result<()>,
) -> (Result<()>, Vec<Vec<u8>>) {
    let (criu, peer) = criu();
    let following = follow(peer, script);
    let asked = criu.ask(b"request", Kind::Dump, NEEDS, None, heed);
    (asked, following.join().unwrap())
}

#[test]
fn notifications_are_heeded_in_turn_and_answered() {
    let mut scripts = Vec::new();
    let (asked, heard) =
        ask(vec![VERSION.into(), notice("pre-dump"), notice("post-dump"), DUMPED.into()], |notice, _| {
            scripts.push((notice.script.clone(), notice.pid));
            Ok(())
        });
    asked.unwrap();
    assert_eq!(scripts, [("pre-dump".to_string(), 7), ("post-dump".to_string(), 7)]);
    let yes = b"\x08\x06\x18\x01".to_vec();
    assert_eq!(heard, [b"\x08\x0a\x20\x01".to_vec(), b"request".to_vec(), yes.clone(), yes]);
}

#[test]
fn whoever_cannot_go_on_is_the_reason_and_criu_gives_up() {
    let refused = b"\x08\x01\x10\x00".to_vec();
    let script = vec![VERSION.into(), notice("setup-namespaces"), refused];
    let (asked, heard) = ask(script, |_, _| bail!("the hook failed"));
    assert_eq!(asked.unwrap_err().to_string(), "the hook failed");
    assert_eq!(heard[2], b"\x08\x06\x18\x00");
}

#[test]
fn a_refusal_has_crius_own_words() {
    let refused = b"\x08\x01\x10\x00\x4a\x02no".to_vec();
    let (asked, _) = ask(vec![VERSION.into(), refused], |_, _| Ok(()));
    let error = asked.unwrap_err();
    assert!(error.is::<Refused>());
    assert_eq!(error.to_string(), "criu gave up, saying: no");
}

#[test]
fn a_criu_that_is_too_old_or_cannot_is_not_asked() {
    let old = b"\x08\x0a\x10\x01\x52\x04\x08\x03\x10\x0f".to_vec();
    let (asked, heard) = ask(vec![old], |_, _| Ok(()));
    assert_eq!(asked.unwrap_err().to_string(), "criu is version 3.15, and 3.16 or newer is needed");
    assert_eq!(heard.len(), 1);

    let (criu, peer) = criu();
    let following = follow(peer, vec![VERSION.into(), b"\x08\x09\x10\x01\x42\x02\x08\x00".to_vec()]);
    let needs = Needs { features: Features { mem_track: true, lazy_pages: false }, ..NEEDS };
    let error = criu.ask(b"request", Kind::PreDump, needs, None, |_, _| Ok(())).unwrap_err();
    assert!(error.to_string().contains("cannot follow changes of memory"), "{error}");
    assert_eq!(following.join().unwrap()[1], b"\x08\x09\x20\x01\x2a\x04\x08\x01\x10\x00");
}

#[test]
fn a_criu_that_is_gone_is_not_waited_for() {
    let (criu, peer) = criu();
    drop(peer);
    let error = criu.ask(b"request", Kind::Dump, NEEDS, None, |_, _| Ok(())).unwrap_err();
    assert!(format!("{error:#}").contains("criu"), "{error:#}");
}

#[test]
fn a_descriptor_comes_with_its_notification() {
    let (criu, peer) = criu();
    let following = std::thread::spawn(move || {
        let mut buffer = [0; 256];
        nix::unistd::read(&peer, &mut buffer).unwrap();
        nix::unistd::write(&peer, VERSION).unwrap();
        nix::unistd::read(&peer, &mut buffer).unwrap();
        let file = program::memory_file().unwrap();
        send_with_fd(peer.as_fd(), &notice("orphan-pts-master"), file.as_fd()).unwrap();
        nix::unistd::read(&peer, &mut buffer).unwrap();
        nix::unistd::write(&peer, DUMPED).unwrap();
    });
    let mut received = None;
    let heed = |_: &Notice, fd| {
        received = fd;
        Ok(())
    };
    criu.ask(b"request", Kind::Dump, NEEDS, None, heed).unwrap();
    following.join().unwrap();
    assert!(is_open(received.unwrap().as_raw_fd()));
}

#[test]
fn the_last_errors_of_a_log_are_one_sentence() {
    let directory = tempfile::tempdir().unwrap();
    let log = directory.path().join("dump.log");
    let line = |number: u32| {
        format!("(00.00{number}000)    42: Error (criu/mount.c:{number}): mnt: fault\t{number}\n")
    };
    let lines: String = (1..5).map(line).collect();
    std::fs::write(&log, format!("(00.1) Warn  (criu/x.c:1): fine\n{lines}(00.2) done\n")).unwrap();
    let error = explained(Error::new(Refused::default()), &log, b"");
    let expected = format!("criu gave up: mnt: fault 2; mnt: fault 3; mnt: fault 4 (see {})", log.display());
    assert_eq!(error.to_string(), expected);

    let missing = explained(Error::new(Refused::default()), &directory.path().join("none"), b"no\nkernel");
    assert_eq!(missing.to_string(), "criu gave up, saying: no kernel");
    std::fs::write(&log, "nothing").unwrap();
    let silent = explained(Error::new(Refused::default()), &log, b"");
    assert_eq!(format!("{silent:#}"), format!("see {}: criu gave up", log.display()));
}
