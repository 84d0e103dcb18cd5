//! The order of a container's life: which step follows which, and why.
//!
//! Runs outside. Each subject's planner says what its steps are; only this file says when they come.

use std::ffi::CString;

use super::facts::Authority;
use super::{Action, Enter, IdMap, Open, Outside, Slot, Step, When};

/// A plan in the making. Steps are kept in the order in which they are added.
#[derive(Debug)]
pub struct Steps {
    pub enter: Enter,
    pub outside: Outside,
    open: Vec<(Slot, Open)>,
    slots: usize,
    steps: Vec<Step>,
    warnings: Vec<String>,
    /// Mounts that become read-only when everything below them exists.
    read_only_later: Vec<Slot>,
    /// Trees that init must open itself, since the parent has no right to.
    trees_inside: Vec<Action>,
    authority: Authority,
}

impl Steps {
    pub fn new(authority: Authority) -> Steps {
        Steps {
            enter: Enter::default(),
            outside: Outside::default(),
            open: Vec::new(),
            slots: 0,
            steps: Vec::new(),
            warnings: Vec::new(),
            read_only_later: Vec::new(),
            trees_inside: Vec::new(),
            authority,
        }
    }

    /// A step of the container's first process alone.
    pub fn birth(&mut self, action: Action) {
        self.steps.push(Step { when: When::Birth, action });
    }

    /// A step of every process in the container.
    pub fn every(&mut self, action: Action) {
        self.steps.push(Step { when: When::Every, action });
    }

    /// A slot that a step fills.
    pub fn slot(&mut self) -> Slot {
        self.slots += 1;
        Slot(self.slots - 1)
    }

    /// Have the parent open something before the clone.
    pub fn open(&mut self, open: Open) -> Slot {
        let slot = self.slot();
        self.open.push((slot, open));
        slot
    }

    /// A detached copy of a tree of the host, opened by the parent, or by init before it mounts anything
    /// where the parent is nobody (an idmapped copy always needs the parent).
    pub fn tree(&mut self, source: CString, recursive: bool, follow: bool, idmap: Option<IdMap>) -> Slot {
        if self.authority == Authority::User && idmap.is_none() {
            let slot = self.slot();
            self.trees_inside.push(Action::OpenTree { slot, source, recursive, follow });
            slot
        } else {
            self.open(Open::Tree { source, recursive, follow, idmap })
        }
    }

    /// Make the mount kept in `slot` read-only after the last thing that writes below it.
    pub fn read_only_later(&mut self, slot: Slot) {
        self.read_only_later.push(slot);
    }

    /// A known oddity that the specification says is not an error.
    pub fn warn(&mut self, warning: String) {
        self.warnings.push(warning);
    }
}
