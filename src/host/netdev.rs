//! Moves network devices into the network namespace of a child, and back should its birth fail.
//!
//! Runs outside, when the child is in its namespaces. What the specification wants kept goes along: permanent addresses
//! of global scope. Whatever else a device is (its MTU, its hardware address) the kernel keeps.

use std::ffi::{CStr, CString};
use std::fs::File;
use std::os::fd::BorrowedFd;

use anyhow::{Context, Result, bail};
use nix::errno::Errno;
use nix::sched::{CloneFlags, setns};

use crate::plan::NetDevice;
use crate::sys::netlink::{Netlink, attributes, put_attribute};

/// struct ifinfomsg and struct ifaddrmsg (rtnetlink(7))
const LINK_HEADER: usize = 16;
const ADDRESS_HEADER: usize = 8;

/// Flags of an address that are its author's wishes, and not its state (linux/if_addr.h).
const WISHES: u32 =
    libc::IFA_F_NODAD | libc::IFA_F_HOMEADDRESS | MANAGE_TEMPORARY | NO_PREFIX_ROUTE | JOIN_MULTICAST;
const MANAGE_TEMPORARY: u32 = 0x100;
const NO_PREFIX_ROUTE: u32 = 0x200;
const JOIN_MULTICAST: u32 = 0x400;

/// Attributes that make an address what it is; its label has the device's old name in it.
const KEPT: &[u16] = &[libc::IFA_ADDRESS, libc::IFA_LOCAL, libc::IFA_BROADCAST, IFA_RT_PRIORITY];
const IFA_FLAGS: u16 = 8;
const IFA_RT_PRIORITY: u16 = 9;

/// A change that is made by others meanwhile is looked at again this often.
const ATTEMPTS: usize = 10;

/// The devices that were moved so far, and a socket on either side.
pub struct Moved {
    here: Netlink,
    /// Keeps the namespace there, even when all its processes have ended.
    there: Netlink,
    devices: Vec<Device>,
}

/// A device that was moved, as it was on the host.
struct Device {
    name: CString,
    up: bool,
    addresses: Vec<Address>,
    /// Its number in the container.
    inside: i32,
}

struct Link {
    index: i32,
    up: bool,
}

/// A whole RTM_NEWADDR message but for the device's number.
struct Address {
    family: u8,
    prefix_length: u8,
    attributes: Vec<u8>,
}

/// Move devices to where the child is, and record each in `moved` as soon as it is gone from here.
pub fn give(child: BorrowedFd<'_>, pid: i32, devices: &[NetDevice], moved: &mut Option<Moved>) -> Result<()> {
    let here = Netlink::open().context("open a netlink socket")?;
    let there = in_namespace_of(child, Netlink::open)?;
    let moved = moved.insert(Moved { here, there, devices: Vec::new() });
    for device in devices {
        let place = || format!("config.json: linux.netDevices.{}", device.host.to_string_lossy());
        moved.give(device, pid).with_context(place)?;
    }
    Ok(())
}

/// A lone thread's own network namespace changes for as long as this takes.
fn in_namespace_of<T>(child: BorrowedFd<'_>, act: impl FnOnce() -> Result<T, Errno>) -> Result<T> {
    let own = File::open("/proc/self/ns/net").context("open /proc/self/ns/net")?;
    setns(child, CloneFlags::CLONE_NEWNET).context("enter the container's network namespace")?;
    let result = act();
    setns(own, CloneFlags::CLONE_NEWNET).context("return to our own network namespace")?;
    result.context("open a netlink socket in the container's network namespace")
}

impl Moved {
    fn give(&mut self, device: &NetDevice, pid: i32) -> Result<()> {
        let link = match link(&self.here, &device.host) {
            Err(Errno::ENODEV) => bail!("the host has no such network device"),
            result => result.context("look at the device")?,
        };
        let addresses = addresses(&self.here, link.index).context("list the device's addresses")?;
        let inside = device.inside.to_string_lossy();
        let taken = format!("the container's network namespace has a device {inside:?} already");
        if !device.is_pattern() && self::link(&self.there, &device.inside).is_ok() {
            bail!("{taken}");
        }
        // Under a name that nobody else uses it is found again, whatever the kernel makes of a pattern.
        let passing = CString::new(format!("corten{}", std::process::id())).context("make a name")?;
        match change_link(&self.here, link.index, Some(&passing), Some(pid), false) {
            Err(Errno::EINVAL) => bail!("the kernel does not let this device leave its network namespace"),
            result => result.context("move the device")?,
        }
        let index = self::link(&self.there, &passing).context("find the device that was moved")?.index;
        self.devices.push(Device { name: device.host.clone(), up: link.up, addresses, inside: index });
        match change_link(&self.there, index, Some(&device.inside), None, false) {
            Err(Errno::EEXIST) => bail!("{taken}"),
            result => result.with_context(|| format!("rename the device to {inside:?}"))?,
        }
        if let Some(device) = self.devices.last() {
            add_addresses(&self.there, index, &device.addresses).context("give the device its addresses")?;
        }
        change_link(&self.there, index, None, None, true).context("bring up the device")
    }

    /// Fetch back all that was moved, as it was but for routes that somebody added.
    pub fn take_back(&self) -> Result<()> {
        let own = std::process::id() as i32;
        let mut outcome = Ok(());
        for device in self.devices.iter().rev() {
            let back = || {
                change_link(&self.there, device.inside, Some(&device.name), Some(own), false)?;
                let index = link(&self.here, &device.name)?.index;
                add_addresses(&self.here, index, &device.addresses)?;
                if device.up { change_link(&self.here, index, None, None, true) } else { Ok(()) }
            };
            let result: Result<(), Errno> = back();
            let name = device.name.to_string_lossy();
            outcome = outcome.and(result.with_context(|| format!("fetch back network device {name}")));
        }
        outcome
    }
}

/// The device of this name.
fn link(socket: &Netlink, name: &CStr) -> Result<Link, Errno> {
    let mut body = vec![0; LINK_HEADER];
    put_attribute(&mut body, libc::IFLA_IFNAME, name.to_bytes_with_nul());
    let answers = socket.ask(libc::RTM_GETLINK, 0, &body)?;
    let answer = answers.iter().find(|answer| answer.kind == libc::RTM_NEWLINK).ok_or(Errno::ENODEV)?;
    let number = |at: usize| answer.body.get(at..at + 4).and_then(|bytes| bytes.try_into().ok());
    let index = number(4).map(i32::from_ne_bytes).ok_or(Errno::EBADMSG)?;
    let flags = number(8).map(u32::from_ne_bytes).ok_or(Errno::EBADMSG)?;
    Ok(Link { index, up: flags & libc::IFF_UP as u32 != 0 })
}

/// Rename a device, put it where a process is, or bring it up.
fn change_link(
    socket: &Netlink,
    index: i32,
    name: Option<&CStr>,
    to_process: Option<i32>,
    up: bool,
) -> Result<(), Errno> {
    let flags = if up { libc::IFF_UP as u32 } else { 0 };
    let mut body = vec![0; 4];
    body.extend(index.to_ne_bytes());
    body.extend(flags.to_ne_bytes());
    // Which of the flags are meant.
    body.extend(flags.to_ne_bytes());
    if let Some(name) = name {
        put_attribute(&mut body, libc::IFLA_IFNAME, name.to_bytes_with_nul());
    }
    if let Some(pid) = to_process {
        put_attribute(&mut body, libc::IFLA_NET_NS_PID, &pid.to_ne_bytes());
    }
    socket.ask(libc::RTM_NEWLINK, 0, &body).map(drop)
}

/// The permanent addresses of global scope that a device has, of every family.
fn addresses(socket: &Netlink, index: i32) -> Result<Vec<Address>, Errno> {
    let mut attempt = 1;
    let answers = loop {
        match socket.ask(libc::RTM_GETADDR, libc::NLM_F_DUMP, &[0; ADDRESS_HEADER]) {
            Err(Errno::EINTR) if attempt < ATTEMPTS => attempt += 1,
            result => break result?,
        }
    };
    Ok(answers.iter().filter_map(|answer| permanent_address(&answer.body, index)).collect())
}

/// The address that a RTM_NEWADDR message tells of, if it is this device's and one that is to be kept.
fn permanent_address(message: &[u8], index: i32) -> Option<Address> {
    let (header, rest) = message.split_at_checked(ADDRESS_HEADER)?;
    let [family, prefix_length, short_flags, scope] = *header.first_chunk()?;
    let owner = i32::from_ne_bytes(*header.last_chunk()?);
    let mut flags = u32::from(short_flags);
    let mut kept = Vec::new();
    for (kind, value) in attributes(rest) {
        if kind == IFA_FLAGS {
            flags = u32::from_ne_bytes(value.try_into().ok()?);
        } else if KEPT.contains(&kind) {
            put_attribute(&mut kept, kind, value);
        }
    }
    put_attribute(&mut kept, IFA_FLAGS, &(flags & WISHES).to_ne_bytes());
    let permanent = flags & libc::IFA_F_PERMANENT != 0;
    let wanted = owner == index && permanent && scope == libc::RT_SCOPE_UNIVERSE;
    wanted.then_some(Address { family, prefix_length, attributes: kept })
}

/// In their order, which tells IPv4 which of them is the first.
fn add_addresses(socket: &Netlink, index: i32, addresses: &[Address]) -> Result<(), Errno> {
    for address in addresses {
        let mut body = vec![address.family, address.prefix_length, 0, libc::RT_SCOPE_UNIVERSE];
        body.extend(index.to_ne_bytes());
        body.extend(&address.attributes);
        socket.ask(libc::RTM_NEWADDR, libc::NLM_F_CREATE | libc::NLM_F_REPLACE, &body)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(index: i32, flags: u32, scope: u8) -> Vec<u8> {
        let mut message = vec![libc::AF_INET as u8, 24, 0x80, scope];
        message.extend(index.to_ne_bytes());
        put_attribute(&mut message, libc::IFA_ADDRESS, &[10, 0, 0, 1]);
        put_attribute(&mut message, libc::IFA_LABEL, b"eth0\0");
        put_attribute(&mut message, IFA_FLAGS, &flags.to_ne_bytes());
        message
    }

    #[test]
    fn an_address_is_kept_that_is_permanent_and_global() {
        let kept = permanent_address(&message(7, libc::IFA_F_PERMANENT | NO_PREFIX_ROUTE, 0), 7).unwrap();
        assert_eq!((kept.family, kept.prefix_length), (libc::AF_INET as u8, 24));
        let told: Vec<_> = attributes(&kept.attributes).collect();
        assert_eq!(
            told,
            [(libc::IFA_ADDRESS, [10, 0, 0, 1].as_slice()), (IFA_FLAGS, &NO_PREFIX_ROUTE.to_ne_bytes())]
        );
        assert!(permanent_address(&message(8, libc::IFA_F_PERMANENT, 0), 7).is_none());
        assert!(permanent_address(&message(7, 0, 0), 7).is_none());
        assert!(permanent_address(&message(7, libc::IFA_F_PERMANENT, libc::RT_SCOPE_LINK), 7).is_none());
    }
}
