//! What `create` and `run` share: a container from its bundle to its start gate.

use std::ffi::OsStr;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use anyhow::{Context as _, Result};

use super::Context;
use crate::cli::{self, CgroupManager, GlobalOptions, Rootless};
use crate::container::check_id;
use crate::container::state::State;
use crate::host::notify;
use crate::launch::foreground::Foreground;
use crate::launch::{self, Born, Contact, sockets};
use crate::plan::bundle::Bundle;
use crate::plan::facts::Facts;
use crate::plan::namespaces::Place;
use crate::plan::request::{Cgroups, Console, Listen, Options};
use crate::plan::{self, Namespace, Plan, annotations, steps};
use crate::{time, timing};

/// A container at its start gate. A runtime that stays has where a terminal's master goes when nobody else takes it,
/// and its signals.
pub fn give_birth(
    context: &Context<'_>,
    options: &cli::Birth,
    id: &str,
    console: Console,
    stays: Option<(OwnedFd, &Foreground)>,
) -> Result<Born> {
    check_id(id)?;
    let interrupt = stays.as_ref().map(|(_, foreground)| foreground.share_interrupt()).transpose()?;
    let terminal = stays.map(|(terminal, _)| terminal);
    let facts = Facts::gather()?;
    timing::done("look at the host");
    let mut bundle = Bundle::read(&options.bundle, &options.config)?;
    timing::done("read the bundle");
    let room = context.store.path(id);
    let notify = notify::manager().is_some() && plan::notify::offer(&mut bundle.spec, &room);
    let options_of_plan = Options {
        room,
        no_pivot: options.no_pivot,
        no_new_keyring: options.no_new_keyring,
        preserve_fds: options.preserve_fds,
        listen: listen_fds(),
        cgroups: cgroups(context.global),
        seccomp_receiver: seccomp_receiver(),
        console: console.clone(),
    };
    let request = bundle.request(id, &facts, &options_of_plan);
    let mut plan = steps::birth(&request)?;
    if let (Some(group), Rootless::False) = (&mut plan.cgroup, context.global.rootless) {
        group.required = true;
    }
    context.tell(id, &plan);
    timing::done("plan");
    let own_pid_namespace = request.place(Namespace::Pid) == Place::New;
    let state = State { notify, ..state_of(&bundle, &plan, id, facts.euid, own_pid_namespace) };
    let contact = Contact {
        pid_file: options.pid_file.clone(),
        pidfd_socket: match &options.pidfd_socket {
            Some(path) => Some(path.clone()),
            None => annotations::pidfd_receiver(&bundle.spec).context("config.json")?,
        },
        console: sockets::console(&console, terminal)?,
        interrupt,
    };
    launch::birth(&context.store, &plan, state, &bundle.text, contact, context.log)
}

pub fn state_of(bundle: &Bundle, plan: &Plan, id: &str, owner: u32, own_pid_namespace: bool) -> State {
    let root = bundle.spec.root().as_ref().map(|root| bundle.directory.join(root.path()));
    State {
        id: id.to_string(),
        oci_version: bundle.spec.version().clone(),
        bundle: bundle.directory.clone(),
        rootfs: root.unwrap_or_default(),
        created: time::now(),
        annotated: !plan.outside.annotations.is_empty(),
        owner,
        own_pid_namespace,
        poststart: !plan.outside.poststart.is_empty(),
        poststop: !plan.outside.poststop.is_empty(),
        notify: false,
        init: None,
        cgroup: None,
        wanted: None,
        resctrl: None,
        host_mount: plan.host_mount().map(|path| OsStr::from_bytes(path.to_bytes()).into()),
    }
}

/// What the option and the service manager ask of the control groups.
pub fn cgroups(global: &GlobalOptions) -> Cgroups {
    match global.cgroup_manager() {
        None | Some(CgroupManager::Cgroupfs) => Cgroups::Files,
        Some(CgroupManager::Systemd) => Cgroups::Systemd,
        Some(CgroupManager::Disabled) => Cgroups::Disabled,
    }
}

/// crun's variable for a seccomp agent of the host's.
pub fn seccomp_receiver() -> Option<PathBuf> {
    std::env::var_os("RUN_OCI_SECCOMP_RECEIVER").filter(|path| !path.is_empty()).map(PathBuf::from)
}

/// Sockets that a service manager hands to us for the container (sd_listen_fds(3)). `LISTEN_PID` names us at most:
/// engines leave it out or set it to a process of theirs.
pub fn listen_fds() -> Option<Listen> {
    let fds = std::env::var("LISTEN_FDS").ok()?.parse().ok().filter(|count| *count > 0)?;
    Some(Listen { fds, names: std::env::var("LISTEN_FDNAMES").ok() })
}
