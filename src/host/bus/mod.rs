//! A D-Bus client for one caller: calls and their answers, signals, and a deadline on everything.
//!
//! Runs outside. Synchronous and without threads, in a program that clones. Knows nothing of systemd.

use std::fmt;
use std::io::{ErrorKind, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail, ensure};
use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, connect, setsockopt, socket, sockopt};
use nix::sys::time::{TimeVal, TimeValLike};

use crate::plan::systemd::variant::Variant;
use marshal::{ENDIANNESS, Reader};

mod marshal;
#[cfg(test)]
pub mod peer;

/// The largest message that is taken; the bus would allow 128 MiB.
const LARGEST: usize = 1 << 20;

// Types of messages, and the fields of their headers.
const CALL: u8 = 1;
const ANSWER: u8 = 2;
const ERROR: u8 = 3;
const SIGNAL: u8 = 4;
const PATH: u8 = 1;
const INTERFACE: u8 = 2;
const MEMBER: u8 = 3;
const ERROR_NAME: u8 = 4;
const REPLY_SERIAL: u8 = 5;
const DESTINATION: u8 = 6;
const SIGNATURE: u8 = 8;

pub struct Bus {
    socket: UnixStream,
    address: String,
    patience: Duration,
    deadline: Instant,
    serial: u32,
    /// Signals that came while we waited for something else.
    signals: Vec<Message>,
}

/// Whom to ask for what.
#[derive(Clone, Copy)]
pub struct Call<'a> {
    pub destination: &'a str,
    pub path: &'a str,
    pub interface: &'a str,
    pub member: &'a str,
    pub body: &'a [Variant],
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Message {
    pub kind: u8,
    pub serial: u32,
    pub reply_to: u32,
    pub member: String,
    pub error: String,
    pub body: Vec<Variant>,
}

/// The other side understood, and refuses.
#[derive(Debug, PartialEq)]
pub struct Refused {
    pub name: String,
    pub reason: String,
}

impl fmt::Display for Refused {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let reason = self.reason.trim().trim_end_matches('.');
        if reason.is_empty() { write!(out, "{}", self.name) } else { write!(out, "{reason} ({})", self.name) }
    }
}

impl std::error::Error for Refused {}

impl Bus {
    /// Connect to the first address of a list that answers, and say hello. All that is done with the connection has to
    /// be done after `patience`.
    pub fn connect(addresses: &str, patience: Duration) -> Result<Bus> {
        let mut outcome = Err(anyhow!("{addresses:?} is not the address of a bus on this machine"));
        for address in addresses.split(';').filter(|address| !address.is_empty()) {
            outcome = open(address, patience).with_context(|| format!("connect to {address}"));
            if outcome.is_ok() {
                break;
            }
        }
        let mut bus = Bus {
            socket: outcome?,
            address: addresses.to_string(),
            patience,
            deadline: Instant::now() + patience,
            serial: 0,
            signals: Vec::new(),
        };
        bus.authenticate()?;
        let daemon = Call {
            destination: "org.freedesktop.DBus",
            path: "/org/freedesktop/DBus",
            interface: "org.freedesktop.DBus",
            member: "Hello",
            body: &[],
        };
        bus.call(&daemon)?;
        Ok(bus)
    }

    /// Without naming a user: the bus asks the kernel who we are, which knows it across user namespaces as well.
    fn authenticate(&mut self) -> Result<()> {
        self.write(b"\0AUTH EXTERNAL\r\nDATA\r\nBEGIN\r\n", "authentication")?;
        for expected in ["DATA", "OK"] {
            let line = self.line()?;
            ensure!(line.split(' ').next() == Some(expected), "{} refuses us: {line}", self.address);
        }
        Ok(())
    }

    fn line(&mut self) -> Result<String> {
        let mut line = Vec::new();
        while !line.ends_with(b"\r\n") {
            ensure!(line.len() < 1024, "{} does not speak D-Bus", self.address);
            let mut byte = [0];
            self.read(&mut byte, "authentication")?;
            line.push(byte[0]);
        }
        Ok(String::from_utf8_lossy(&line).trim().to_string())
    }

    /// Ask, and wait for the answer.
    pub fn call(&mut self, call: &Call<'_>) -> Result<Vec<Variant>> {
        let serial = self.send(call)?;
        self.answer(serial, call.member)
    }

    /// Ask; the answer to this number is to be fetched later.
    pub fn send(&mut self, call: &Call<'_>) -> Result<u32> {
        self.serial += 1;
        let mut fields = vec![
            (PATH, Variant::Path(call.path.into())),
            (DESTINATION, Variant::text(call.destination)),
            (INTERFACE, Variant::text(call.interface)),
            (MEMBER, Variant::text(call.member)),
        ];
        let bytes = message(CALL, self.serial, &mut fields, call.body);
        self.write(&bytes, call.member)?;
        Ok(self.serial)
    }

    /// `asked` is what an error names.
    pub fn answer(&mut self, serial: u32, asked: &str) -> Result<Vec<Variant>> {
        loop {
            let message = self.receive(asked)?;
            match message.kind {
                ANSWER if message.reply_to == serial => return Ok(message.body),
                ERROR if message.reply_to == serial => {
                    let reason = match message.body.into_iter().next() {
                        Some(Variant::Text(reason)) => reason,
                        _ => String::new(),
                    };
                    return Err(Refused { name: message.error, reason }).with_context(|| asked.to_string());
                }
                SIGNAL => self.signals.push(message),
                // An answer that nobody waits for any more.
                _ => {}
            }
        }
    }

    /// The next signal, those that have come already first. `awaited` is what an error names.
    pub fn signal(&mut self, awaited: &str) -> Result<Message> {
        if !self.signals.is_empty() {
            return Ok(self.signals.remove(0));
        }
        loop {
            let message = self.receive(awaited)?;
            if message.kind == SIGNAL {
                return Ok(message);
            }
        }
    }

    fn receive(&mut self, awaited: &str) -> Result<Message> {
        let mut bytes = vec![0; 16];
        self.read(&mut bytes, awaited)?;
        let number = |at: usize| u32::from_ne_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        ensure!(bytes[0] == ENDIANNESS && bytes[3] == 1, "{} does not speak D-Bus", self.address);
        let (body, fields) = (number(4) as usize, number(12) as usize);
        ensure!(body <= LARGEST && fields <= LARGEST, "{} sends too large a message", self.address);
        let body_at = (16 + fields).next_multiple_of(8);
        bytes.resize(body_at + body, 0);
        self.read(&mut bytes[16..], awaited)?;
        parse(&bytes, body_at).with_context(|| format!("{} sends what cannot be read", self.address))
    }

    fn left(&self, awaited: &str) -> Result<Duration> {
        let left = self.deadline.saturating_duration_since(Instant::now());
        ensure!(
            !left.is_zero(),
            "{} did not answer within {} s: {awaited}",
            self.address,
            self.patience.as_secs_f32()
        );
        Ok(left)
    }

    fn read(&mut self, mut bytes: &mut [u8], awaited: &str) -> Result<()> {
        while !bytes.is_empty() {
            let left = self.left(awaited)?;
            self.socket.set_read_timeout(Some(left)).context("set a timeout")?;
            match self.socket.read(bytes) {
                Ok(0) => bail!("{} has hung up: {awaited}", self.address),
                Ok(count) => bytes = &mut bytes[count..],
                Err(error) if is_not_yet(error.kind()) => {}
                Err(error) => {
                    return Err(error).with_context(|| format!("hear from {}: {awaited}", self.address));
                }
            }
        }
        Ok(())
    }

    fn write(&mut self, mut bytes: &[u8], asked: &str) -> Result<()> {
        while !bytes.is_empty() {
            let left = self.left(asked)?;
            self.socket.set_write_timeout(Some(left)).context("set a timeout")?;
            match self.socket.write(bytes) {
                Ok(count) => bytes = &bytes[count..],
                Err(error) if is_not_yet(error.kind()) => {}
                Err(error) => return Err(error).with_context(|| format!("ask {}: {asked}", self.address)),
            }
        }
        Ok(())
    }

    /// Sleep, but not past the deadline, which is an error.
    pub fn pause(&self, pause: Duration, awaited: &str) -> Result<()> {
        std::thread::sleep(pause.min(self.left(awaited)?));
        self.left(awaited).map(drop)
    }
}

fn is_not_yet(kind: ErrorKind) -> bool {
    matches!(kind, ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted)
}

/// A whole message; `fields` get the body's signature.
fn message(kind: u8, serial: u32, fields: &mut Vec<(u8, Variant)>, body: &[Variant]) -> Vec<u8> {
    let mut content = Vec::new();
    body.iter().for_each(|value| marshal::write(&mut content, value));
    let signature: String = body.iter().map(Variant::signature).collect();
    if !signature.is_empty() {
        fields.push((SIGNATURE, Variant::Signature(signature)));
    }
    let fields = fields
        .drain(..)
        .map(|(code, value)| Variant::Struct(vec![Variant::Byte(code), Variant::Boxed(Box::new(value))]));
    let mut bytes = vec![ENDIANNESS, kind, 0, 1];
    marshal::write(&mut bytes, &Variant::Uint32(content.len() as u32));
    marshal::write(&mut bytes, &Variant::Uint32(serial));
    marshal::write(&mut bytes, &Variant::Array("(yv)".into(), fields.collect()));
    marshal::align(&mut bytes, 8);
    bytes.extend(content);
    bytes
}

fn parse(bytes: &[u8], body_at: usize) -> Result<Message> {
    let header = Reader::new(&bytes[..body_at]).values("yyyyuua(yv)")?;
    let [_, Variant::Byte(kind), .., Variant::Uint32(serial), Variant::Array(_, fields)] = header.as_slice()
    else {
        bail!("a header is missing");
    };
    let mut message = Message { kind: *kind, serial: *serial, ..Message::default() };
    let mut signature = "";
    for field in fields {
        let Variant::Struct(pair) = field else { continue };
        let [Variant::Byte(code), Variant::Boxed(value)] = pair.as_slice() else { continue };
        match (*code, &**value) {
            (MEMBER, Variant::Text(member)) => message.member = member.clone(),
            (ERROR_NAME, Variant::Text(name)) => message.error = name.clone(),
            (REPLY_SERIAL, Variant::Uint32(serial)) => message.reply_to = *serial,
            (SIGNATURE, Variant::Signature(text)) => signature = text,
            _ => {}
        }
    }
    message.body = Reader::new(&bytes[body_at..]).values(signature)?;
    Ok(message)
}

/// One address, such as `unix:path=/run/user/1000/bus,guid=...` (dbus specification, "Server Addresses").
fn open(address: &str, patience: Duration) -> Result<UnixStream> {
    let keys = address.strip_prefix("unix:").context("it is not a socket of this machine")?;
    let key = |name: &str| keys.split(',').find_map(|key| key.strip_prefix(name)?.strip_prefix('='));
    let socket_address = match (key("path"), key("abstract")) {
        (Some(path), _) => UnixAddr::new(unescape(path)?.as_slice())?,
        (None, Some(name)) => UnixAddr::new_abstract(&unescape(name)?)?,
        (None, None) => bail!("it has no path"),
    };
    let fd = socket(AddressFamily::Unix, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
    // A bus that accepts nobody is waited for in connect(2).
    setsockopt(&fd, sockopt::SendTimeout, &TimeVal::milliseconds(patience.as_millis() as i64))?;
    match connect(fd.as_raw_fd(), &socket_address) {
        Ok(()) => Ok(UnixStream::from(fd)),
        Err(Errno::EAGAIN) => bail!("it did not answer within {} s", patience.as_secs_f32()),
        Err(errno) => Err(errno.into()),
    }
}

/// `%xx` is a byte.
fn unescape(text: &str) -> Result<Vec<u8>> {
    let mut parts = text.split('%');
    let mut bytes = parts.next().unwrap_or_default().as_bytes().to_vec();
    for part in parts {
        let (digits, rest) = part.split_at_checked(2).context("a \"%\" without two digits")?;
        bytes.push(u8::from_str_radix(digits, 16).context("a \"%\" without two digits")?);
        bytes.extend(rest.as_bytes());
    }
    Ok(bytes)
}

/// The address of a socket with this path.
pub fn address_of(path: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_/.\\*".contains(&byte);
    let escape = |byte: u8| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02x}") };
    format!("unix:path={}", path.bytes().map(escape).collect::<String>())
}

#[cfg(test)]
mod tests {
    use super::peer::{Peer, Says};
    use super::*;

    const SHORT: Duration = Duration::from_millis(300);

    fn ping() -> Call<'static> {
        Call { destination: "a.b", path: "/a", interface: "a.b", member: "Ping", body: &[] }
    }

    /// The error of a short talk with a peer of this script.
    fn error(script: Vec<Says>) -> String {
        let peer = Peer::start(script);
        let start = Instant::now();
        let talk = Bus::connect(&peer.address, SHORT).and_then(|mut bus| bus.call(&ping()));
        assert!(start.elapsed() < 20 * SHORT, "no deadline");
        format!("{:#}", talk.unwrap_err())
    }

    #[test]
    fn calls_are_answered_and_signals_kept_for_later() {
        let news = Says::Signal("News", vec![Variant::text("first")]);
        let peer = Peer::start(vec![Says::Hello, news, Says::Answer("Ping", vec![Variant::Uint32(7)])]);
        let mut bus = Bus::connect(&peer.address, SHORT).unwrap();
        assert_eq!(bus.call(&ping()).unwrap(), [Variant::Uint32(7)]);
        let signal = bus.signal("News").unwrap();
        assert_eq!((signal.member.as_str(), signal.body), ("News", vec![Variant::text("first")]));
    }

    #[test]
    fn a_refusal_says_what_was_asked_and_why_not() {
        let refused = error(vec![Says::Hello, Says::Error("Ping", "a.b.No", "not today.")]);
        assert_eq!(refused, "Ping: not today (a.b.No)");
    }

    #[test]
    fn whoever_does_not_answer_is_waited_for_no_longer_than_we_said() {
        for script in [
            vec![Says::Nothing],
            vec![Says::Hello, Says::Nothing],
            vec![Says::Hello, Says::Slowly("Ping")],
            vec![Says::Hello, Says::Chatter],
        ] {
            let said = error(script);
            assert!(said.contains("did not answer within 0.3 s: "), "{said}");
        }
    }

    #[test]
    fn a_bus_that_accepts_nobody_is_given_up() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("bus");
        let listener =
            nix::sys::socket::socket(AddressFamily::Unix, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)
                .unwrap();
        nix::sys::socket::bind(listener.as_raw_fd(), &UnixAddr::new(&path).unwrap()).unwrap();
        nix::sys::socket::listen(&listener, nix::sys::socket::Backlog::new(0).unwrap()).unwrap();
        let _first = UnixStream::connect(&path).unwrap();
        let error = Bus::connect(&address_of(path.to_str().unwrap()), SHORT).err().unwrap();
        assert!(format!("{error:#}").contains("did not answer within 0.3 s"), "{error:#}");
    }

    #[test]
    fn who_hangs_up_or_talks_nonsense_is_an_error_at_once() {
        for (script, phrase) in [
            (vec![Says::HangUp], "has hung up: authentication"),
            (vec![Says::Hello, Says::HangUp], "has hung up: Ping"),
            (vec![Says::Bytes(b"REJECTED EXTERNAL\r\n")], "refuses us: REJECTED EXTERNAL"),
            (vec![Says::Bytes(b"HTTP/1.1 400 Bad Request\r\n")], "refuses us"),
            (vec![Says::Hello, Says::Bytes(&[b'x'; 64])], "does not speak D-Bus"),
            (vec![Says::Hello, Says::Bytes(b"l\x02\0\x01\xff\xff\xff\xff\x01\0\0\0\0\0\0\0")], "too large"),
            (
                vec![Says::Hello, Says::Bytes(b"l\x02\0\x01\0\0\0\0\x01\0\0\0\x08\0\0\0\x05\x01u\0\xff")],
                "Ping",
            ),
        ] {
            let said = error(script);
            assert!(said.contains(phrase), "no {phrase:?} in: {said}");
        }
    }

    #[test]
    fn addresses_are_tried_one_after_the_other() {
        let peer = Peer::start(vec![Says::Hello]);
        let list = format!("tcp:host=a,port=1;unix:path=/nowhere/bus;{},guid=0123", peer.address);
        Bus::connect(&list, SHORT).unwrap();
        let none = Bus::connect("unix:path=/nowhere/bus", SHORT).err().unwrap();
        assert_eq!(
            format!("{none:#}"),
            "connect to unix:path=/nowhere/bus: ENOENT: No such file or directory"
        );
        assert!(Bus::connect("", SHORT).is_err());
        assert_eq!(unescape("/a%20b").unwrap(), b"/a b");
        assert_eq!(address_of("/a b"), "unix:path=/a%20b");
        unescape("%2").unwrap_err();
    }
}
