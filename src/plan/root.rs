//! The root filesystem as a whole: how it comes into its place, and how the container comes into it.
//!
//! Runs outside. What is mounted in it is the business of `mounts.rs`.

use anyhow::{Context, Result, bail, ensure};

use super::namespaces::Place;
use super::request::{Request, c_path};
use super::steps::Steps;
use super::{Action, Namespace};

/// What `linux.rootfsPropagation` means after the pivot, and before it for mounts that the host makes meanwhile
/// (mount(2)). An unbindable tree could not be put in its place.
#[derive(Debug)]
struct Propagation {
    name: &'static str,
    after: u64,
    before: u64,
}

const PROPAGATIONS: &[Propagation] = &[
    Propagation { name: "shared", after: libc::MS_SHARED, before: SHARED },
    Propagation { name: "rshared", after: libc::MS_SHARED | libc::MS_REC, before: SHARED },
    Propagation { name: "slave", after: libc::MS_SLAVE, before: SLAVE },
    Propagation { name: "rslave", after: libc::MS_SLAVE | libc::MS_REC, before: SLAVE },
    Propagation { name: "private", after: libc::MS_PRIVATE, before: PRIVATE },
    Propagation { name: "rprivate", after: libc::MS_PRIVATE | libc::MS_REC, before: PRIVATE },
    Propagation { name: "unbindable", after: libc::MS_UNBINDABLE, before: PRIVATE },
    Propagation { name: "runbindable", after: libc::MS_UNBINDABLE | libc::MS_REC, before: PRIVATE },
];
const SHARED: u64 = libc::MS_SHARED | libc::MS_REC;
const SLAVE: u64 = libc::MS_SLAVE | libc::MS_REC;
const PRIVATE: u64 = libc::MS_PRIVATE | libc::MS_REC;

/// In a mount namespace that we share nothing is ours to change.
const UNCHANGED: u64 = 0;

fn propagation(request: &Request) -> Result<Option<&'static Propagation>> {
    let name = request.linux().and_then(|linux| linux.rootfs_propagation().as_deref()).unwrap_or_default();
    if name.is_empty() {
        return Ok(None);
    }
    let found = PROPAGATIONS.iter().find(|propagation| propagation.name == name);
    found.map(Some).with_context(|| format!("linux.rootfsPropagation: {name:?} is not known"))
}

/// Put the root tree in its place.
pub fn plan(request: &Request, steps: &mut Steps) -> Result<()> {
    let Some(root) = request.spec.root() else { bail!("root: missing") };
    ensure!(!root.path().as_os_str().is_empty(), "root.path: missing");
    let path = c_path(&request.bundle.join(root.path()), "root.path")?;
    let slot = steps.tree(path.clone(), true, false, None);
    let propagation = match (request.place(Namespace::Mount), propagation(request)?) {
        (Place::Inherited, _) => UNCHANGED,
        (_, Some(propagation)) => propagation.before,
        (_, None) => SLAVE,
    };
    steps.open_trees_here();
    steps.birth(Action::MountRoot { slot, path, propagation });
    Ok(())
}

pub fn plan_read_only(request: &Request, steps: &mut Steps) {
    let wanted = request.spec.root().as_ref().and_then(|root| root.readonly()).unwrap_or(false);
    if wanted {
        steps.birth(Action::ReadOnlyRoot);
    }
}

/// Make the root tree the process's root.
pub fn plan_entry(request: &Request, steps: &mut Steps) -> Result<()> {
    if request.place(Namespace::Mount) == Place::Inherited {
        steps.birth(Action::Chroot);
        return Ok(());
    }
    steps.birth(if request.options.no_pivot { Action::MoveRoot } else { Action::Pivot });
    if let Some(propagation) = propagation(request)? {
        steps.birth(Action::RootPropagation { flags: propagation.after });
    }
    Ok(())
}
