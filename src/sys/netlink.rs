//! Routing netlink (rtnetlink(7)): one request to the kernel, and its answers.
//!
//! A socket speaks for the network namespace in which it was opened, and keeps that alive, wherever its owner goes.

use std::os::fd::{AsRawFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, recv, sendto, socket,
};

/// Room for the longest datagram that the kernel composes for a dump (netlink(7)).
const LONGEST_ANSWER: usize = 1 << 16;
const HEADER: usize = size_of::<libc::nlmsghdr>();

#[derive(Debug)]
pub struct Netlink(OwnedFd);

/// One message of an answer: its type (`RTM_*`), and what follows its header.
#[derive(Debug)]
pub struct Answer {
    pub kind: u16,
    pub body: Vec<u8>,
}

impl Netlink {
    /// A socket in the network namespace of this moment.
    pub fn open() -> Result<Netlink, Errno> {
        let flags = SockFlag::SOCK_CLOEXEC;
        socket(AddressFamily::Netlink, SockType::Raw, flags, SockProtocol::NetlinkRoute).map(Netlink)
    }

    /// Send a request of type `kind` with the `NLM_F_*` in `flags`, and gather the answers to it. The kernel's errno is
    /// the error; EINTR, when what a dump was about changed meanwhile.
    pub fn ask(&self, kind: u16, flags: i32, body: &[u8]) -> Result<Vec<Answer>, Errno> {
        let flags = flags | libc::NLM_F_REQUEST | libc::NLM_F_ACK;
        let mut message = Vec::with_capacity(HEADER + body.len());
        message.extend(((HEADER + body.len()) as u32).to_ne_bytes());
        message.extend(kind.to_ne_bytes());
        message.extend((flags as u16).to_ne_bytes());
        // The sequence number, which need not differ where each answer is awaited, and our port, which the kernel fills.
        message.extend([0; 8]);
        message.extend(body);
        sendto(self.0.as_raw_fd(), &message, &NetlinkAddr::new(0, 0), MsgFlags::empty())?;
        self.answers()
    }

    fn answers(&self) -> Result<Vec<Answer>, Errno> {
        let mut answers = Vec::new();
        let mut torn = false;
        let mut datagram = vec![0; LONGEST_ANSWER];
        loop {
            let length = match recv(self.0.as_raw_fd(), &mut datagram, MsgFlags::empty()) {
                Err(Errno::EINTR) => continue,
                result => result?,
            };
            let mut rest = &datagram[..length];
            while let Some((kind, flags, body, next)) = first_message(rest) {
                rest = next;
                torn |= i32::from(flags) & libc::NLM_F_DUMP_INTR != 0;
                match i32::from(kind) {
                    libc::NLMSG_ERROR | libc::NLMSG_DONE => {
                        let code = body.first_chunk().map_or(0, |code| i32::from_ne_bytes(*code));
                        return match code {
                            0 if torn => Err(Errno::EINTR),
                            0 => Ok(answers),
                            negative => Err(Errno::from_raw(-negative)),
                        };
                    }
                    _ => answers.push(Answer { kind, body: body.to_vec() }),
                }
            }
        }
    }
}

/// The type, the flags and the body of the first message, and what comes behind it.
fn first_message(datagram: &[u8]) -> Option<(u16, u16, &[u8], &[u8])> {
    let length = u32::from_ne_bytes(*datagram.first_chunk()?) as usize;
    let body = datagram.get(HEADER..length)?;
    let kind = u16::from_ne_bytes(datagram[4..6].try_into().ok()?);
    let flags = u16::from_ne_bytes(datagram[6..8].try_into().ok()?);
    Some((kind, flags, body, datagram.get(aligned(length)..).unwrap_or_default()))
}

/// Append an attribute (rtnetlink(7), `struct rtattr`).
pub fn put_attribute(body: &mut Vec<u8>, kind: u16, value: &[u8]) {
    let length = 4 + value.len();
    body.extend((length as u16).to_ne_bytes());
    body.extend(kind.to_ne_bytes());
    body.extend(value);
    body.resize(body.len() + aligned(length) - length, 0);
}

/// The attributes that follow a message's own header: type and value of each.
pub fn attributes(mut rest: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let length = usize::from(u16::from_ne_bytes(*rest.first_chunk()?));
        let kind = u16::from_ne_bytes(rest.get(2..4)?.try_into().ok()?);
        let value = rest.get(4..length)?;
        rest = rest.get(aligned(length)..).unwrap_or_default();
        Some((kind, value))
    })
}

fn aligned(length: usize) -> usize {
    length.next_multiple_of(4)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_are_read_as_they_were_put() {
        let mut body = Vec::new();
        put_attribute(&mut body, 3, b"eth0\0");
        put_attribute(&mut body, 19, &7u32.to_ne_bytes());
        assert_eq!(body.len(), 12 + 8);
        let read: Vec<_> = attributes(&body).collect();
        assert_eq!(read, [(3, b"eth0\0".as_slice()), (19, &7u32.to_ne_bytes())]);
    }

    #[test]
    fn a_message_that_is_cut_short_is_none() {
        let mut body = Vec::new();
        put_attribute(&mut body, 3, b"eth0");
        assert_eq!(attributes(&body[..6]).count(), 0);
        assert!(first_message(&[32, 0, 0, 0, 1, 0, 0, 0]).is_none());
    }

    #[test]
    fn the_loopback_device_is_number_one_and_others_are_not_there() {
        let kernel = Netlink::open().unwrap();
        let named = |name: &[u8]| {
            let mut body = vec![0; 16];
            put_attribute(&mut body, libc::IFLA_IFNAME, name);
            kernel.ask(libc::RTM_GETLINK, 0, &body)
        };
        let found = named(b"lo\0").unwrap();
        assert_eq!((found.len(), found[0].kind), (1, libc::RTM_NEWLINK));
        assert_eq!(found[0].body[4..8], 1i32.to_ne_bytes());
        assert_eq!(named(b"corten-none\0").unwrap_err(), Errno::ENODEV);
    }
}
