//! What an attempt has made so far, and how it is given back. Runs outside.

use std::path::PathBuf;

use anyhow::{Context, Result};

use super::spawn::Child;
use crate::container::store::Room;
use crate::host;
use crate::host::cgroup::Cgroup;
use crate::host::netdev::Moved;
use crate::host::resctrl::Resctrl;

/// The things that must not outlive a failure. A guest has none but its child.
#[derive(Default)]
pub struct Attempt {
    pub room: Option<Room>,
    pub cgroup: Option<Box<dyn Cgroup>>,
    pub resctrl: Option<Resctrl>,
    pub host_mount: Option<PathBuf>,
    pub net_devices: Option<Moved>,
    pub pid_file: Option<PathBuf>,
    pub child: Option<Child>,
}

impl Attempt {
    /// Take back everything, in the reverse order of making, and go on past what cannot be taken back.
    /// The first such thing is the error.
    pub fn undo(self) -> Result<()> {
        let mut outcome = Ok(());
        let mut note = |result: Result<()>| {
            if outcome.is_ok() {
                outcome = result;
            }
        };
        if let Some(child) = &self.child {
            note(child.end());
        }
        if let Some(devices) = &self.net_devices {
            // What was moved is the host's, and would end with the namespace that it is in.
            note(devices.take_back());
        }
        if let Some(path) = &self.pid_file {
            note(std::fs::remove_file(path).with_context(|| format!("remove {path:?}")));
        }
        if let Some(mount) = &self.host_mount {
            note(host::unmount(mount));
        }
        if let Some(cgroup) = &self.cgroup {
            if self.child.is_some() {
                // Without a pid namespace of its own the child's end is not the end of what its hooks began.
                note(cgroup.kill());
            }
            note(cgroup.remove());
        }
        if let Some(resctrl) = &self.resctrl {
            note(resctrl.remove());
        }
        // As long as there is something to take back there is a record of it, for `delete --force`.
        if let Some(room) = self.room.filter(|_| outcome.is_ok()) {
            outcome = room.remove();
        }
        outcome
    }
}
