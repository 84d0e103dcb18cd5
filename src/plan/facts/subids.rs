//! The ids that an administrator lets a user map: `/etc/subuid` and `/etc/subgid` (subuid(5), subgid(5)).
//!
//! Runs outside, and only for others than root. What is found here is a proposal: newuidmap(1) judges.

use std::fs;

use crate::sys::program;

const HELPERS: [&str; 2] = ["newuidmap", "newgidmap"];

/// Ranges of ids outside, each its first id and its length. Without both kinds, and the programs that write them into
/// a map, there are none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SubordinateIds {
    pub uids: Vec<(u32, u32)>,
    pub gids: Vec<(u32, u32)>,
}

impl SubordinateIds {
    pub fn of(uid: u32) -> SubordinateIds {
        let read = |path| fs::read_to_string(path).unwrap_or_default();
        let owner = Owner { uid, name: name(&read("/etc/passwd"), uid) };
        let (uids, gids) = (owner.ranges(&read("/etc/subuid")), owner.ranges(&read("/etc/subgid")));
        let usable = !uids.is_empty()
            && !gids.is_empty()
            && HELPERS.iter().all(|helper| program::find(helper).is_some());
        if usable { SubordinateIds { uids, gids } } else { SubordinateIds::default() }
    }
}

/// Whom a line of these files may name by either.
struct Owner {
    uid: u32,
    name: Option<String>,
}

impl Owner {
    fn ranges(&self, text: &str) -> Vec<(u32, u32)> {
        let range = |line: &str| {
            let mut fields = line.trim().split(':');
            let (owner, first, count) = (fields.next()?, fields.next()?, fields.next()?);
            let ours = self.name.as_deref() == Some(owner) || owner.parse() == Ok(self.uid);
            let range: (u32, u32) = (first.parse().ok()?, count.parse().ok()?);
            (ours && range.1 > 0).then_some(range)
        };
        text.lines().filter_map(range).collect()
    }
}

/// The user's name (passwd(5)).
fn name(passwd: &str, uid: u32) -> Option<String> {
    passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)?.parse() == Ok(uid)).then(|| name.to_string())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_given_to_a_name_or_to_a_number() {
        let owner = Owner { uid: 1000, name: name("root:x:0:0::/:\nweb:x:1000:100::/:\n", 1000) };
        let text = "root:100000:65536\nweb:165536:65536\n1000:300000:10\n\nweb:5\nweb:9:0\n";
        assert_eq!(owner.ranges(text), [(165_536, 65_536), (300_000, 10)]);
        assert_eq!(Owner { uid: 7, name: None }.ranges(text), []);
    }
}
