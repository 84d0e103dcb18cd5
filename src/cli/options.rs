//! Every option of every command, with its default. Runs outside; what it says here is what help and man pages say.

use std::path::PathBuf;
use std::time::Duration;

use clap::{ArgAction, Args};

use super::values::*;
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
    log_level: LogLevel,
    /// Log everything; the same as --log-level debug
    #[arg(long)]
    debug: bool,
    /// Log to the journal where --log names no other place
    #[arg(long)]
    pub systemd_log: bool,
    /// Let systemd manage cgroups; the same as --cgroup-manager systemd
    #[arg(short, long)]
    systemd_cgroup: bool,
    /// Who manages cgroups [default: cgroupfs]
    #[arg(long, value_name = "MANAGER")]
    cgroup_manager: Option<CgroupManager>,
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
    /// Add to FILE what this command spends its time on; as a Chrome trace if it ends in .json [env: CORTEN_TIMING]
    #[arg(long, value_name = "FILE")]
    timing: Option<PathBuf>,
    /// Accepted for callers of older runtimes; criu is looked up in PATH
    #[arg(long, value_name = "PATH", hide = true)]
    pub criu: Option<PathBuf>,
    /// Print the version
    #[arg(short, short_alias = 'V', long, action = ArgAction::Version)]
    version: (),
}

impl GlobalOptions {
    /// Where to write down what takes how long.
    pub fn timing(&self) -> Option<PathBuf> {
        let from_environment = || std::env::var_os("CORTEN_TIMING").filter(|path| !path.is_empty());
        self.timing.clone().or_else(|| from_environment().map(PathBuf::from))
    }

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
    #[arg(short, long, value_name = "SOCKET")]
    pub console_socket: Option<PathBuf>,
    /// Unix socket that receives a pidfd of the container's first process
    #[arg(long, value_name = "SOCKET")]
    pub pidfd_socket: Option<PathBuf>,
    /// File to write the process id to
    #[arg(short, long, value_name = "FILE")]
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
}

#[derive(Args, Debug)]
pub struct Create {
    #[command(flatten)]
    pub birth: Birth,
    /// Accepted for callers that pass it; create never stays to adopt anybody
    #[arg(long, hide = true)]
    pub no_subreaper: bool,
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
    /// Do not adopt processes that the container leaves behind
    #[arg(long)]
    pub no_subreaper: bool,
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
    /// Leave this many file descriptors from 3 on open
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
pub struct Pause {
    /// Name of the container
    #[arg(value_name = "CONTAINER-ID")]
    pub id: String,
}

#[derive(Args, Debug)]
pub struct Resume {
    /// Name of the container
    #[arg(value_name = "CONTAINER-ID")]
    pub id: String,
}

#[derive(Args, Debug)]
pub struct Update {
    /// File with limits in the form of config.json's `linux.resources`, - for standard input; options come on top of it
    #[arg(short, long, value_name = "FILE")]
    pub resources: Option<PathBuf>,
    /// Weight against other groups in block I/O, from 10 to 1000
    #[arg(long, value_name = "WEIGHT", value_parser = number::<u16>)]
    pub blkio_weight: Option<u16>,
    /// Microseconds over which the CPU quota counts
    #[arg(long, value_name = "MICROSECONDS", value_parser = number::<u64>)]
    pub cpu_period: Option<u64>,
    /// CPU time in a period; -1 for no limit
    #[arg(long, value_name = "MICROSECONDS", value_parser = number::<i64>)]
    pub cpu_quota: Option<i64>,
    /// CPU time beyond the quota that unused quota may be saved up for
    #[arg(long, value_name = "MICROSECONDS", value_parser = number::<u64>)]
    pub cpu_burst: Option<u64>,
    /// Weight against other groups in CPU time
    #[arg(long, value_name = "SHARES", value_parser = number::<u64>)]
    pub cpu_share: Option<u64>,
    /// Microseconds over which the realtime runtime counts
    #[arg(long, value_name = "MICROSECONDS", value_parser = number::<u64>)]
    pub cpu_rt_period: Option<u64>,
    /// Realtime CPU time in a period
    #[arg(long, value_name = "MICROSECONDS", value_parser = number::<i64>)]
    pub cpu_rt_runtime: Option<i64>,
    /// 1 to run only when no other group wants to, 0 to compete
    #[arg(long, value_name = "0|1", value_parser = number::<i64>)]
    pub cpu_idle: Option<i64>,
    /// Processors, as 0-3,7
    #[arg(long, value_name = "LIST")]
    pub cpuset_cpus: Option<String>,
    /// Memory nodes, as 0-1
    #[arg(long, value_name = "LIST")]
    pub cpuset_mems: Option<String>,
    /// Memory, in bytes or with k, m, g, t or p; -1 for no limit
    #[arg(long, value_name = "SIZE", value_parser = memory_size)]
    pub memory: Option<i64>,
    /// Memory that is left to the container when memory is short
    #[arg(long, value_name = "SIZE", value_parser = memory_size)]
    pub memory_reservation: Option<i64>,
    /// Memory and swap together; -1 for no limit
    #[arg(long, value_name = "SIZE", value_parser = memory_size)]
    pub memory_swap: Option<i64>,
    /// Kernel memory; kernels from 5.16 on have no such limit
    #[arg(long, value_name = "SIZE", value_parser = memory_size)]
    pub kernel_memory: Option<i64>,
    /// Memory of TCP buffers
    #[arg(long, value_name = "SIZE", value_parser = memory_size)]
    pub kernel_memory_tcp: Option<i64>,
    /// Processes and threads; -1 for no limit
    #[arg(long, value_name = "N", value_parser = number::<i64>)]
    pub pids_limit: Option<i64>,
    /// Share of the L3 caches, as L3:0=7f0;1=1f, for a container with linux.intelRdt
    #[arg(long, value_name = "SCHEMA")]
    pub l3_cache_schema: Option<String>,
    /// Share of memory bandwidth, as MB:0=20;1=70, for a container with linux.intelRdt
    #[arg(long, value_name = "SCHEMA")]
    pub mem_bw_schema: Option<String>,
    /// Name of the container
    #[arg(value_name = "CONTAINER-ID")]
    pub id: String,
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
pub struct Events {
    /// How often to print what the container uses, such as 1m30s or 500ms
    #[arg(long, value_name = "DURATION", default_value = "5s", value_parser = interval)]
    pub interval: Duration,
    /// Print it once, at once, and return
    #[arg(long)]
    pub stats: bool,
    /// Name of the container
    #[arg(value_name = "CONTAINER-ID")]
    pub id: String,
}

// What `checkpoint` and `restore` share: CRIU's own options.
#[derive(Args, Debug)]
pub struct Criu {
    /// Directory of the checkpoint's files
    #[arg(long, value_name = "DIR", default_value = "checkpoint")]
    pub image_path: PathBuf,
    /// Directory for the log and for what CRIU needs meanwhile [default: the image path]
    #[arg(long, value_name = "DIR")]
    pub work_path: Option<PathBuf>,
    /// Take established TCP connections along
    #[arg(long)]
    pub tcp_established: bool,
    /// Allow Unix sockets that are connected to the outside
    #[arg(long)]
    pub ext_unix_sk: bool,
    /// Allow a session and a terminal that belong to the outside
    #[arg(long)]
    pub shell_job: bool,
    /// Take file locks along
    #[arg(long)]
    pub file_locks: bool,
    /// How much of the cgroups is restored, if it differs [default: soft]
    #[arg(long, value_name = "MODE")]
    pub manage_cgroups_mode: Option<CgroupsMode>,
    /// Restore a namespace without what is in it; network is the only one
    #[arg(long, value_name = "NAMESPACE", value_delimiter = ',')]
    pub empty_ns: Vec<EmptyNamespace>,
    /// Drop memory that a later image has as well from its parents
    #[arg(long)]
    pub auto_dedup: bool,
    /// Leave memory where it is until somebody asks for it, by criu lazy-pages
    #[arg(long)]
    pub lazy_pages: bool,
    /// What holds the network back meanwhile [default: CRIU's]
    #[arg(long, value_name = "METHOD")]
    pub network_lock: Option<NetworkLock>,
}

#[derive(Args, Debug)]
pub struct Checkpoint {
    #[command(flatten)]
    pub criu: Criu,
    /// An earlier checkpoint that holds what has not changed since, relative to the image path
    #[arg(long, value_name = "DIR")]
    pub parent_path: Option<PathBuf>,
    /// Dump memory only and let the container go on, ahead of a checkpoint with --parent-path
    #[arg(long)]
    pub pre_dump: bool,
    /// Let the container go on, and keep it
    #[arg(short = 'R', long)]
    pub leave_running: bool,
    /// Leave TCP connections out that are being made
    #[arg(long)]
    pub tcp_skip_in_flight: bool,
    /// Give names to open files that have lost theirs
    #[arg(long)]
    pub link_remap: bool,
    /// Send memory to the page server at this address
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub page_server: Option<PageServer>,
    /// Descriptor to write a byte to when pages can be asked for, with --lazy-pages
    #[arg(long, value_name = "N")]
    pub status_fd: Option<u32>,
    /// Name of the container
    #[arg(value_name = "CONTAINER-ID")]
    pub id: String,
}

#[derive(Args, Debug)]
pub struct Restore {
    #[command(flatten)]
    pub criu: Criu,
    /// Directory of the bundle
    #[arg(short, long, value_name = "DIR", default_value = ".")]
    pub bundle: PathBuf,
    /// Unix socket that receives the terminal's file descriptor
    #[arg(short, long, value_name = "SOCKET")]
    pub console_socket: Option<PathBuf>,
    /// File to write the process id to
    #[arg(short, long, value_name = "FILE")]
    pub pid_file: Option<PathBuf>,
    /// Return once the container runs
    #[arg(short, long)]
    pub detach: bool,
    /// Do not adopt processes that the container leaves behind
    #[arg(long)]
    pub no_subreaper: bool,
    /// Accepted for callers that pass it; CRIU enters the root filesystem in its own way
    #[arg(long, hide = true)]
    pub no_pivot: bool,
    /// Restore TCP connections as closed ones
    #[arg(long)]
    pub tcp_close: bool,
    /// Security label to restore with, as apparmor:PROFILE or selinux:LABEL
    #[arg(long, value_name = "TYPE:NAME")]
    pub lsm_profile: Option<String>,
    /// SELinux context of mounts to restore with
    #[arg(long, value_name = "CONTEXT")]
    pub lsm_mount_context: Option<String>,
    /// Name for the new container
    #[arg(value_name = "CONTAINER-ID")]
    pub id: String,
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

#[cfg(test)]
mod tests {
    use super::*;
    use clap::{CommandFactory, FromArgMatches, Parser};

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        global: GlobalOptions,
    }

    fn global(words: &[&str]) -> GlobalOptions {
        let definition = Line::command().no_binary_name(true).disable_version_flag(true).version("1");
        Line::from_arg_matches(&definition.get_matches_from(words)).unwrap().global
    }

    #[test]
    fn the_manager_of_cgroups_has_two_spellings_and_no_default() {
        use CgroupManager::{Disabled, Systemd};
        assert_eq!(global(&[]).cgroup_manager(), None);
        assert_eq!(global(&["--systemd-cgroup"]).cgroup_manager(), Some(Systemd));
        assert_eq!(global(&["--cgroup-manager=disabled"]).cgroup_manager(), Some(Disabled));
        assert_eq!(
            global(&["--systemd-cgroup", "--cgroup-manager=disabled"]).cgroup_manager(),
            Some(Disabled)
        );
    }

    #[test]
    fn debug_is_the_widest_level_whatever_the_other_option_says() {
        assert_eq!(global(&[]).log_level(), LogLevel::Error);
        assert_eq!(global(&["--log-level=info"]).log_level(), LogLevel::Warning);
        assert_eq!(global(&["--debug", "--log-level=error"]).log_level(), LogLevel::Debug);
    }
}
