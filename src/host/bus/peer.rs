//! The other side of a bus, after a script. For tests: runs in a thread of theirs.

use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::Duration;

use super::*;

/// What the peer does next.
#[derive(Clone)]
pub enum Says {
    /// Authenticates and answers to Hello.
    Hello,
    /// Waits for this call and answers with a body.
    Answer(&'static str, Vec<Variant>),
    Error(&'static str, &'static str, &'static str),
    Signal(&'static str, Vec<Variant>),
    /// Waits for this call and answers a byte at a time, slower than anybody waits.
    Slowly(&'static str),
    /// Sends signals without end.
    Chatter,
    Bytes(&'static [u8]),
    Nothing,
    HangUp,
}

pub struct Peer {
    pub address: String,
    /// What it was asked, Hello left out: a member and its body.
    pub calls: Receiver<(String, Vec<Variant>)>,
    _directory: tempfile::TempDir,
}

impl Peer {
    pub fn start(script: Vec<Says>) -> Peer {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("bus");
        let listener = UnixListener::bind(&path).unwrap();
        let (told, calls) = channel();
        thread::spawn(move || {
            let (mut socket, _) = listener.accept().unwrap();
            // Who has heard enough goes away.
            let _ = script.into_iter().try_for_each(|says| {
                play(says, &mut socket, &mut |call| {
                    // A test that has ended does not listen.
                    let _ = told.send(call);
                })
            });
            // Until the other side goes.
            let _ = socket.read_to_end(&mut Vec::new());
        });
        Peer { address: address_of(path.to_str().unwrap()), calls, _directory: directory }
    }
}

type Tell<'a> = &'a mut dyn FnMut((String, Vec<Variant>));

fn play(says: Says, socket: &mut UnixStream, tell: Tell<'_>) -> std::io::Result<()> {
    match says {
        Says::Hello => {
            let mut line = [0; b"\0AUTH EXTERNAL\r\nDATA\r\nBEGIN\r\n".len()];
            socket.read_exact(&mut line)?;
            socket.write_all(b"DATA\r\nOK 0123\r\n")?;
            let hello = hear(socket, "Hello", &mut |_| {})?;
            socket.write_all(&reply(ANSWER, hello, &[Variant::text(":1.1")]))
        }
        Says::Answer(member, body) => {
            let serial = hear(socket, member, tell)?;
            socket.write_all(&reply(ANSWER, serial, &body))
        }
        Says::Error(member, name, reason) => {
            let serial = hear(socket, member, tell)?;
            let mut fields = vec![(REPLY_SERIAL, Variant::Uint32(serial)), (ERROR_NAME, Variant::text(name))];
            socket.write_all(&message(ERROR, 1, &mut fields, &[Variant::text(reason)]))
        }
        Says::Signal(member, body) => socket.write_all(&signal(member, &body)),
        Says::Slowly(member) => {
            let serial = hear(socket, member, tell)?;
            for byte in reply(ANSWER, serial, &[]) {
                thread::sleep(Duration::from_millis(50));
                socket.write_all(&[byte])?;
            }
            Ok(())
        }
        Says::Chatter => loop {
            thread::sleep(Duration::from_millis(10));
            socket.write_all(&signal("Noise", &[]))?;
        },
        Says::Bytes(bytes) => socket.write_all(bytes),
        Says::Nothing => socket.read_to_end(&mut Vec::new()).map(drop),
        Says::HangUp => {
            // What it was told is read, or the other side hears of a reset.
            let _ = socket.read(&mut [0; 4096])?;
            socket.shutdown(std::net::Shutdown::Both)
        }
    }
}

fn reply(kind: u8, to: u32, body: &[Variant]) -> Vec<u8> {
    message(kind, 1, &mut vec![(REPLY_SERIAL, Variant::Uint32(to))], body)
}

fn signal(member: &str, body: &[Variant]) -> Vec<u8> {
    let mut fields = vec![
        (PATH, Variant::Path("/a".into())),
        (INTERFACE, Variant::text("a.b")),
        (MEMBER, Variant::text(member)),
    ];
    message(SIGNAL, 1, &mut fields, body)
}

/// The next call, which must be this one; its serial.
fn hear(socket: &mut UnixStream, member: &str, tell: Tell<'_>) -> std::io::Result<u32> {
    let mut bytes = vec![0; 16];
    socket.read_exact(&mut bytes)?;
    let number = |at: usize| u32::from_ne_bytes(bytes[at..at + 4].try_into().unwrap()) as usize;
    let body_at = (16 + number(12)).next_multiple_of(8);
    let length = body_at + number(4);
    bytes.resize(length, 0);
    socket.read_exact(&mut bytes[16..])?;
    let call = parse(&bytes, body_at).unwrap();
    tell((call.member.clone(), call.body));
    assert_eq!(call.member, member);
    Ok(call.serial)
}
