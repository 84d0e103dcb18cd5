//! Every option of every command with its default, and the types they parse into. Runs outside; reads values, judges none
//! against a container.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::str::FromStr;

use clap::{ArgAction, Args, ValueEnum};

use crate::signal::Signal;

#[derive(Args, Debug)]
pub struct GlobalOptions {
    /// Directory that holds the state of containers
    #[arg(short, long, value_name = "DIR")]
    pub root: Option<PathBuf>,
    /// Where to log: FILE, file:FILE, journald:ID or syslog:ID
    #[arg(short, long, value_name = "TARGET")]
    pub log: Option<LogTarget>,
    /// Form of the log's records
    #[arg(long, value_name = "FORMAT", default_value = "text")]
    pub log_format: TextFormat,
    /// Least severe records to log
    #[arg(long, value_name = "LEVEL", default_value = "error")]
    pub log_level: LogLevel,
    /// Log everything; the same as --log-level debug
    #[arg(long)]
    pub debug: bool,
    /// Log to the journal where --log names no other place
    #[arg(long)]
    pub systemd_log: bool,
    /// Let systemd manage cgroups; the same as --cgroup-manager systemd
    #[arg(short, long)]
    pub systemd_cgroup: bool,
    /// Who manages cgroups [default: cgroupfs]
    #[arg(long, value_name = "MANAGER")]
    pub cgroup_manager: Option<CgroupManager>,
    /// Whether to go on without the cgroups that an unprivileged user may not make
    #[arg(
        long,
        value_name = "WHEN",
        default_value = "auto",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "true",
        ignore_case = true
    )]
    pub rootless: Rootless,
    /// Accepted for callers of older runtimes; criu is looked up in PATH
    #[arg(long, value_name = "PATH", hide = true)]
    pub criu: Option<PathBuf>,
    /// Print the version
    #[arg(short, short_alias = 'V', long, action = ArgAction::Version)]
    pub version: (),
}

impl GlobalOptions {
    /// Two spellings of one choice; the one that names the manager wins. None leaves it to the container's state.
    pub fn cgroup_manager(&self) -> Option<CgroupManager> {
        self.cgroup_manager.or(self.systemd_cgroup.then_some(CgroupManager::Systemd))
    }

    pub fn log_level(&self) -> LogLevel {
        if self.debug { LogLevel::Debug } else { self.log_level }
    }
}

// What `create` and `run` share: how a container comes into being.
#[derive(Args, Debug)]
pub struct Birth {
    /// Directory of the bundle
    #[arg(short, long, value_name = "DIR", default_value = ".")]
    pub bundle: PathBuf,
    /// Configuration file, relative to the bundle
    #[arg(short = 'f', long, value_name = "FILE", default_value = "config.json")]
    pub config: PathBuf,
    /// Unix socket that receives the terminal's file descriptor
    #[arg(long, value_name = "SOCKET")]
    pub console_socket: Option<PathBuf>,
    /// Unix socket that receives a pidfd of the container's first process
    #[arg(long, value_name = "SOCKET")]
    pub pidfd_socket: Option<PathBuf>,
    /// File to write the process id to
    #[arg(long, value_name = "FILE")]
    pub pid_file: Option<PathBuf>,
    /// Enter the root filesystem with a moved mount and chroot instead of pivot_root, as an initramfs needs
    #[arg(long)]
    pub no_pivot: bool,
    /// Keep the caller's session keyring
    #[arg(long)]
    pub no_new_keyring: bool,
    /// Leave this many file descriptors from 3 on open, after those of LISTEN_FDS
    #[arg(long, value_name = "N", default_value = "0", value_parser = descriptor_count)]
    pub preserve_fds: u32,
    /// Do not adopt processes that the container leaves behind
    #[arg(long)]
    pub no_subreaper: bool,
}

#[derive(Args, Debug)]
pub struct Create {
    #[command(flatten)]
    pub birth: Birth,
    /// Accepted for callers that pass it; create never waits
    #[arg(short, long, hide = true)]
    pub detach: bool,
    /// Name for the new container
    #[arg(value_name = "CONTAINER-ID")]
    pub id: String,
}

#[derive(Args, Debug)]
pub struct Run {
    #[command(flatten)]
    pub birth: Birth,
    /// Return once the container's process runs
    #[arg(short, long)]
    pub detach: bool,
    /// Do not delete the container after its process exits
    #[arg(long)]
    pub keep: bool,
    /// Name for the new container
    #[arg(value_name = "CONTAINER-ID")]
    pub id: String,
}

#[derive(Args, Debug)]
pub struct Start {
    /// Name of the container
    #[arg(value_name = "CONTAINER-ID")]
    pub id: String,
}

#[derive(Args, Debug)]
pub struct Exec {
    /// File with the process to run, in the form of config.json's `process`; options that describe one are not used
    #[arg(short, long, value_name = "FILE")]
    pub process: Option<PathBuf>,
    /// Return once the process runs
    #[arg(short, long)]
    pub detach: bool,
    /// File to write the process id to
    #[arg(long, value_name = "FILE")]
    pub pid_file: Option<PathBuf>,
    /// Unix socket that receives the terminal's file descriptor
    #[arg(long, value_name = "SOCKET")]
    pub console_socket: Option<PathBuf>,
    /// Unix socket that receives a pidfd of the process
    #[arg(long, value_name = "SOCKET")]
    pub pidfd_socket: Option<PathBuf>,
    /// Give the process a terminal
    #[arg(short, long)]
    pub tty: bool,
    /// Working directory in the container
    #[arg(long, value_name = "DIR")]
    pub cwd: Option<String>,
    /// Set an environment variable; may be repeated
    #[arg(short, long, value_name = "NAME=VALUE")]
    pub env: Vec<String>,
    /// Numeric user, and group, in the container
    #[arg(short, long, value_name = "UID[:GID]")]
    pub user: Option<User>,
    /// Add a supplementary group; may be repeated
    #[arg(short = 'g', long, value_name = "GID", value_delimiter = ',', value_parser = numeric_id)]
    pub additional_gids: Vec<u32>,
    /// Add a capability; may be repeated
    #[arg(short, long, value_name = "CAPABILITY")]
    pub cap: Vec<String>,
    /// SELinux label of the process
    #[arg(long, value_name = "LABEL")]
    pub process_label: Option<String>,
    /// AppArmor profile of the process
    #[arg(long, value_name = "PROFILE")]
    pub apparmor: Option<String>,
    /// Keep the process from gaining privileges
    #[arg(long)]
    pub no_new_privs: bool,
    /// Leave this many file descriptors from 3 on open, after those of LISTEN_FDS
    #[arg(long, value_name = "N", default_value = "0", value_parser = descriptor_count)]
    pub preserve_fds: u32,
    /// Run in a cgroup below the container's, of all or the named controllers; may be repeated
    #[arg(long, value_name = "[CONTROLLER,..:]PATH")]
    pub cgroup: Vec<SubCgroup>,
    /// Go on although the container is paused
    #[arg(long)]
    pub ignore_paused: bool,
    /// Name of the container
    #[arg(value_name = "CONTAINER-ID")]
    pub id: String,
    /// Program and its arguments
    #[arg(value_name = "COMMAND", required_unless_present = "process")]
    pub args: Vec<String>,
}

#[derive(Args, Debug)]
pub struct State {
    /// Name of the container
    #[arg(value_name = "CONTAINER-ID")]
    pub id: String,
}

#[derive(Args, Debug)]
pub struct Kill {
    /// Signal every process of the container; a stopped container is no error then
    #[arg(short, long)]
    pub all: bool,
    /// Take CONTAINER-ID as a regular expression and signal every container it matches
    #[arg(short, long)]
    pub regex: bool,
    /// Name of the container
    #[arg(value_name = "CONTAINER-ID")]
    pub id: String,
    /// Name with or without SIG, in any case, or number
    #[arg(value_name = "SIGNAL", default_value = "TERM")]
    pub signal: Signal,
}

#[derive(Args, Debug)]
pub struct Delete {
    /// Kill the container first where it still runs; a container that does not exist is no error then
    #[arg(short, long)]
    pub force: bool,
    /// Take CONTAINER-ID as a regular expression and delete every container it matches
    #[arg(short, long)]
    pub regex: bool,
    /// Name of the container
    #[arg(value_name = "CONTAINER-ID")]
    pub id: String,
}

#[derive(Args, Debug)]
pub struct List {
    /// Form of the output
    #[arg(short, long, value_name = "FORMAT", default_value = "table")]
    pub format: TableFormat,
    /// Print ids only
    #[arg(short, long)]
    pub quiet: bool,
}

#[derive(Args, Debug)]
pub struct Ps {
    /// Form of the output
    #[arg(short, long, value_name = "FORMAT", default_value = "table")]
    pub format: TableFormat,
    /// Name of the container
    #[arg(value_name = "CONTAINER-ID")]
    pub id: String,
    /// Arguments for the host's ps, as words or all in one
    #[arg(value_name = "PS-ARGUMENT", default_value = "-ef")]
    pub args: Vec<String>,
}

#[derive(Args, Debug)]
pub struct Spec {
    /// Directory to write into
    #[arg(short, long, value_name = "DIR", default_value = ".")]
    pub bundle: PathBuf,
    /// File to write, relative to the bundle
    #[arg(short = 'f', long, alias = "file", value_name = "FILE", default_value = "config.json")]
    pub config: PathBuf,
    /// Write a configuration that needs no privileges
    #[arg(long)]
    pub rootless: bool,
}

#[derive(Args, Debug)]
pub struct Plan {
    /// Directory of the bundle
    #[arg(short, long, value_name = "DIR", default_value = ".")]
    pub bundle: PathBuf,
    /// Configuration file, relative to the bundle
    #[arg(short = 'f', long, value_name = "FILE", default_value = "config.json")]
    pub config: PathBuf,
    /// Form of the output
    #[arg(long, value_name = "FORMAT", default_value = "text")]
    pub format: TextFormat,
    /// Name the container would have
    #[arg(value_name = "CONTAINER-ID", default_value = "container")]
    pub id: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum TableFormat {
    Table,
    Json,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum TextFormat {
    Text,
    Json,
}

/// From few to many records.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub enum LogLevel {
    Error,
    #[value(alias = "warn")]
    Warning,
    Debug,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum CgroupManager {
    Cgroupfs,
    Systemd,
    Disabled,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Rootless {
    Auto,
    #[value(aliases = ["1", "t"])]
    True,
    #[value(aliases = ["0", "f"])]
    False,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LogTarget {
    File(PathBuf),
    Journald(String),
    Syslog(String),
}

impl From<OsString> for LogTarget {
    /// Only a known kind before the colon is one: file names may hold colons too.
    fn from(text: OsString) -> Self {
        let after = |kind: &str| text.as_bytes().strip_prefix(kind.as_bytes());
        let identifier = |name: &[u8]| String::from_utf8_lossy(name).into_owned();
        if let Some(name) = after("journald:") {
            LogTarget::Journald(identifier(name))
        } else if let Some(name) = after("syslog:") {
            LogTarget::Syslog(identifier(name))
        } else {
            LogTarget::File(OsStr::from_bytes(after("file:").unwrap_or(text.as_bytes())).into())
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct User {
    pub uid: u32,
    pub gid: Option<u32>,
}

impl FromStr for User {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (uid, gid) = match text.split_once(':') {
            Some((uid, gid)) => (uid, Some(gid)),
            None => (text, None),
        };
        Ok(User { uid: numeric_id(uid)?, gid: gid.map(numeric_id).transpose()? })
    }
}

// CVE-2026-30892: what strtol made of "" or "-1" was user 0 or no change of user at all. Only digits are a number here,
// and the id that tells the kernel "leave it as it is" is none.
fn numeric_id(text: &str) -> Result<u32, String> {
    let digits = Some(text).filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()));
    let id = digits.and_then(|digits| digits.parse().ok()).filter(|id| *id != u32::MAX);
    id.ok_or_else(|| format!("{text:?} is not a numeric id from 0 to {}", u32::MAX - 1))
}

/// No process can hold more descriptors than the kernel's own bound for `fs.nr_open`.
const MAX_DESCRIPTORS: u32 = 0x7fff_ffc0;

fn descriptor_count(text: &str) -> Result<u32, String> {
    let count = text.parse().ok().filter(|count| *count <= MAX_DESCRIPTORS);
    count.ok_or_else(|| format!("{text:?} is not a number of file descriptors"))
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SubCgroup {
    /// Empty for all of them.
    pub controllers: Vec<String>,
    pub path: String,
}

impl FromStr for SubCgroup {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let Some((controllers, path)) = text.split_once(':') else {
            return Ok(SubCgroup { controllers: Vec::new(), path: text.into() });
        };
        let controllers: Vec<String> = controllers.split(',').map(String::from).collect();
        if path.contains(':') || controllers.iter().any(String::is_empty) {
            return Err(format!("{text:?} is not PATH or CONTROLLER,..:PATH"));
        }
        Ok(SubCgroup { controllers, path: path.into() })
    }
}
