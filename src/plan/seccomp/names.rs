//! System call numbers by name: one hash table per architecture, packed while compiling.
//!
//! Entries are offsets into one text, not references: a position-independent executable relocates every
//! reference each time it starts.

/// Room for twice the names of the largest architecture; a power of two.
const SLOTS: usize = 1024;

#[derive(Clone, Copy)]
pub struct Slot {
    start: u16,
    /// 0 in a free slot.
    length: u8,
    number: u16,
}

pub struct Names<const SIZE: usize> {
    text: [u8; SIZE],
    slots: [Slot; SLOTS],
}

impl<const SIZE: usize> Names<SIZE> {
    pub const fn empty() -> Self {
        Names { text: [0; SIZE], slots: [Slot { start: 0, length: 0, number: 0 }; SLOTS] }
    }

    /// Add a name whose text begins at `start`; where the next one begins.
    pub const fn add(&mut self, start: usize, name: &str, number: u16) -> usize {
        let name = name.as_bytes();
        let mut at = 0;
        while at < name.len() {
            self.text[start + at] = name[at];
            at += 1;
        }
        let mut slot = hash(name);
        while self.slots[slot].length != 0 {
            slot = (slot + 1) % SLOTS;
        }
        self.slots[slot] = Slot { start: start as u16, length: name.len() as u8, number };
        start + name.len()
    }

    pub fn number(&self, name: &str) -> Option<u32> {
        let mut slot = hash(name.as_bytes());
        loop {
            let Slot { start, length, number } = self.slots[slot];
            if length == 0 {
                return None;
            }
            if &self.text[start as usize..][..length as usize] == name.as_bytes() {
                return Some(number.into());
            }
            slot = (slot + 1) % SLOTS;
        }
    }
}

/// FNV-1a
const fn hash(name: &[u8]) -> usize {
    let mut hash: u32 = 0x811c_9dc5;
    let mut at = 0;
    while at < name.len() {
        hash = (hash ^ name[at] as u32).wrapping_mul(0x0100_0193);
        at += 1;
    }
    (hash ^ (hash >> 16)) as usize % SLOTS
}

/// The table of one of the `syscalls` crate's architectures.
macro_rules! names {
    ($sysno:ty) => {{
        const LAST: usize = <$sysno>::last().id() as usize;
        const SIZE: usize = {
            let (mut size, mut id) = (0, 0);
            while id <= LAST {
                if let Some(call) = <$sysno>::new(id) {
                    size += call.name().len();
                }
                id += 1;
            }
            size
        };
        static NAMES: $crate::plan::seccomp::names::Names<SIZE> = {
            let mut names = $crate::plan::seccomp::names::Names::empty();
            let (mut start, mut id) = (0, 0);
            while id <= LAST {
                if let Some(call) = <$sysno>::new(id) {
                    start = names.add(start, call.name(), id as u16);
                }
                id += 1;
            }
            names
        };
        &NAMES
    }};
}
pub(super) use names;
