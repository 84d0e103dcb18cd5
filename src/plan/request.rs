//! What a plan is made from: the configuration, what the caller asked for, and what the host is.
//!
//! Runs outside. Answers questions about the configuration that more than one planner asks.

use std::ffi::CString;
use std::fmt::Display;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use oci_spec::runtime::{Linux, Root, Spec};

use super::Terminal;
use super::facts::Facts;

/// All that a planner may look at.
#[derive(Clone, Copy)]
pub struct Request<'a> {
    pub id: &'a str,
    /// The bundle's directory, absolute.
    pub bundle: &'a Path,
    pub spec: &'a Spec,
    /// What reading the configuration already warned about.
    pub warnings: &'a [String],
    pub facts: &'a Facts,
    pub options: &'a Options,
}

/// What the command line and the runtime's environment ask for, beyond the configuration.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// The container's own directory on the host, absolute; the root is mounted in it if it cannot be mounted elsewhere.
    pub room: PathBuf,
    pub no_pivot: bool,
    pub no_new_keyring: bool,
    /// Descriptors 3 and up that the caller gives to the process, after those of `listen`.
    pub preserve_fds: u32,
    /// `LISTEN_FDS` and `LISTEN_FDNAMES`, as systemd passes them (sd_listen_fds(3)).
    pub listen: Option<Listen>,
    pub console: Console,
    /// Who answers a filter's notifications where the configuration names nobody (`$RUN_OCI_SECCOMP_RECEIVER`).
    pub seccomp_receiver: Option<PathBuf>,
    pub cgroups: Cgroups,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listen {
    pub fds: u32,
    pub names: Option<String>,
}

/// Who makes the container's cgroup.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Cgroups {
    /// The runtime, in the cgroup filesystem.
    #[default]
    Files,
    /// systemd: `linux.cgroupsPath` names a slice and a unit.
    Systemd,
    /// Nobody: the container stays where its caller is.
    Disabled,
}

/// Where a terminal's master goes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Console {
    /// Nobody takes one: a configuration that asks for a terminal is refused.
    #[default]
    None,
    /// `--console-socket`.
    Socket(PathBuf),
    /// The runtime stays and relays its own terminal, which has this size, if it has one.
    Foreground(Option<Terminal>),
}

impl<'a> Request<'a> {
    pub fn linux(&self) -> Option<&'a Linux> {
        self.spec.linux().as_ref()
    }
}

/// Where the root filesystem is; a trailing slash would follow a symbolic link (path_resolution(7)).
pub fn root_path(bundle: &Path, root: &Root) -> PathBuf {
    bundle.join(root.path()).components().collect()
}

/// A string for the kernel. `bundle.rs` refuses NUL bytes in the configuration; this is for the rest.
pub fn c_string(text: impl Into<Vec<u8>>) -> Result<CString> {
    CString::new(text).context("a NUL byte inside a string")
}

/// An absolute path that the kernel would take, from `member` of the configuration.
pub fn c_path(path: &Path, member: impl Display) -> Result<CString> {
    ensure!(path.is_absolute(), "{member}: {path:?} is not absolute");
    let bytes = path.as_os_str().as_encoded_bytes();
    ensure!(bytes.len() < libc::PATH_MAX as usize, "{member}: is longer than a path may be");
    c_string(bytes)
}
