//! The payload of the integration tests: a static program that says what it sees from inside a container.
//! `report` prints one JSON object; the other words are small probes that print one line each.
//! Runs as a container's process. Knows nothing of the runtime or of the test that asks.

use std::fs;
use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::os::unix::net::UnixDatagram;
use std::process::exit;
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use nix::sched::{CpuSet, sched_getaffinity};
use nix::sys::resource::{Resource, getrlimit};
use nix::sys::signal::Signal;
use nix::sys::signalfd::SignalFd;
use nix::sys::socket::{
    AddressFamily, ControlMessage, MsgFlags, SockFlag, SockType, UnixAddr, sendmsg, socket,
};
use nix::sys::stat::{Mode, SFlag, major, makedev, minor, mknod};
use nix::unistd::{self, Pid};
use serde_json::{Map, Value, json};

fn main() {
    let words: Vec<String> = std::env::args().collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match &words[1..] {
        ["report", ..] => println!("{}", report(&words)),
        ["open", path] => say(fs::File::open(path).map(drop)),
        ["read", path] => say(fs::read(path).map(drop)),
        ["write", path, data] => say(write(path, data)),
        ["create", path] => say(fs::File::create(path).map(drop)),
        ["mknod", path, kind, major, minor] => say(make_node(path, kind, major, minor)),
        ["stat", path] => println!("{}", stat(path)),
        ["list", path] => println!("{}", list(path)),
        ["overwrite"] => overwrite(),
        ["fd-list"] => println!("{}", open_files()),
        ["time-offsets"] => println!("{}", json!(text("/proc/self/timens_offsets"))),
        ["lock", path] => say(lock(path).map(drop)),
        ["hold-lock", path] => {
            let _held = lock(path).expect("the lock");
            std::thread::sleep(Duration::from_secs(600))
        }
        ["tell", path] => tell(path),
        ["queue", port] => queue(port.parse().expect("a port")),
        ["sleep"] => std::thread::sleep(Duration::from_secs(60)),
        ["huge-pages", number] => say(kernel::map_huge_pages(number.parse().expect("a number"))),
        ["end-first-thread"] => {
            std::thread::spawn(|| std::thread::sleep(Duration::from_secs(600)));
            kernel::end_thread()
        }
        ["signal-wait"] => wait_for_signal(),
        ["notify", texts @ ..] => texts.iter().for_each(|text| notify(text, &[])),
        ["notify-flood"] => notify("FDSTORE=1", &[1; 200]),
        ["notify-barrier"] => notify_barrier(),
        ["exit", code] => exit(code.parse().expect("an exit code")),
        other => {
            eprintln!("witness: {other:?} is no word it knows");
            exit(99)
        }
    }
}

/// One line on what became of an attempt: `ok`, or the errno's name.
fn say(attempt: io::Result<()>) {
    match attempt {
        Ok(()) => println!("ok"),
        Err(error) => println!("{:?}", Errno::from_raw(error.raw_os_error().unwrap_or(0))),
    }
}

/// CVE-2019-5736: opens what another process executes, and writes to it once nobody executes it any more.
fn overwrite() {
    let identity = |metadata: fs::Metadata| (metadata.dev(), metadata.ino());
    let own = ["/witness", "/bin/busybox"]
        .map(|path| identity(fs::metadata(path).expect("a program of the image")));
    println!("ready");
    let executable = |entry: io::Result<fs::DirEntry>| {
        let file = fs::File::open(entry.ok()?.path().join("exe")).ok()?;
        (!own.contains(&identity(file.metadata().ok()?))).then_some(file)
    };
    let caught = loop {
        if let Some(file) = fs::read_dir("/proc").expect("list /proc").find_map(executable) {
            break file;
        }
    };
    println!("caught");
    let again = format!("/proc/self/fd/{}", caught.as_raw_fd());
    let attempt = loop {
        match fs::OpenOptions::new()
            .write(true)
            .open(&again)
            .and_then(|mut file| file.write_all(b"overwritten"))
        {
            Err(error) if error.raw_os_error() == Some(Errno::ETXTBSY as i32) => {}
            attempt => break attempt,
        }
    };
    say(attempt);
    std::thread::sleep(Duration::from_secs(60));
}

fn write(path: &str, data: &str) -> io::Result<()> {
    // Without O_CREAT and O_TRUNC: files of /proc, /sys and devices take a plain write.
    let mut file = fs::OpenOptions::new().write(true).custom_flags(nix::libc::O_CLOEXEC).open(path)?;
    file.write_all(data.as_bytes())
}

/// The whole file, for as long as the result lives, unless somebody else has it.
fn lock(path: &str) -> io::Result<Flock<fs::File>> {
    let file = fs::OpenOptions::new().write(true).create(true).truncate(false).open(path)?;
    Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|(_, errno)| errno.into())
}

/// Says something to a socket of the host's, for ever.
fn tell(path: &str) {
    let socket = UnixDatagram::unbound().expect("a socket");
    socket.connect(path).expect("connect");
    loop {
        // Nobody has to listen all the time.
        let _ = socket.send(b"tick");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Connects to itself, and accepts when it is told to.
fn queue(port: u16) {
    let listener = TcpListener::bind(("127.0.0.1", port)).expect("listen");
    let _connection = TcpStream::connect(("127.0.0.1", port)).expect("connect");
    fs::write("/tmp/queued", "").expect("write");
    while !fs::exists("/tmp/go").expect("look") {
        std::thread::sleep(Duration::from_millis(10));
    }
    listener.set_nonblocking(true).expect("do not wait");
    let accepted = listener.accept().err().and_then(|error| error.raw_os_error());
    fs::write("/tmp/draft", format!("{accepted:?}")).expect("write");
    fs::rename("/tmp/draft", "/tmp/accepted").expect("rename");
}

/// One message to the service manager (sd_notify(3)).
fn notify(text: &str, fds: &[i32]) {
    let address = std::env::var("NOTIFY_SOCKET").expect("NOTIFY_SOCKET");
    let address = UnixAddr::new(address.as_str()).expect("an address");
    let socket =
        socket(AddressFamily::Unix, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None).expect("a socket");
    let rights = [ControlMessage::ScmRights(fds)];
    let rights = if fds.is_empty() { &[][..] } else { &rights };
    let text = [io::IoSlice::new(text.as_bytes())];
    sendmsg(socket.as_raw_fd(), &text, rights, MsgFlags::empty(), Some(&address)).expect("send");
}

/// sd_notify_barrier(3): says so when the service manager has heard all.
fn notify_barrier() {
    let (mut reader, writer) = io::pipe().expect("a pipe");
    notify("BARRIER=1", &[writer.as_raw_fd()]);
    drop(writer);
    reader.read_to_end(&mut Vec::new()).expect("read");
    println!("heard");
}

fn make_node(path: &str, kind: &str, major: &str, minor: &str) -> io::Result<()> {
    let kind = match kind {
        "b" => SFlag::S_IFBLK,
        "c" => SFlag::S_IFCHR,
        _ => SFlag::S_IFIFO,
    };
    let number = |text: &str| text.parse().expect("a device number");
    Ok(mknod(path, kind, Mode::from_bits_truncate(0o666), makedev(number(major), number(minor)))?)
}

fn wait_for_signal() {
    let all = kernel::every_signal();
    all.thread_block().expect("block all signals");
    // sigwait(3) of the crate knows no real-time signals.
    let signals = SignalFd::new(&all).expect("a signalfd");
    println!("ready");
    io::stdout().flush().expect("flush");
    let info = signals.read_signal().expect("read a signal").expect("a signal");
    let number = info.ssi_signo as i32;
    match Signal::try_from(number) {
        Ok(signal) => println!("{}", signal.as_str()),
        Err(_) => println!("signal {number}"),
    }
}

fn stat(path: &str) -> Value {
    let metadata = match fs::symlink_metadata(path) {
        Ok(metadata) => metadata,
        Err(error) => {
            return json!({"error": format!("{:?}", Errno::from_raw(error.raw_os_error().unwrap_or(0)))});
        }
    };
    let kind = metadata.file_type();
    let kind = [
        (kind.is_dir(), "directory"),
        (kind.is_file(), "file"),
        (kind.is_symlink(), "symlink"),
        (kind.is_char_device(), "char"),
        (kind.is_block_device(), "block"),
        (kind.is_fifo(), "fifo"),
        (kind.is_socket(), "socket"),
    ]
    .into_iter()
    .find_map(|(is, name)| is.then_some(name));
    json!({
        "type": kind,
        "mode": format!("{:04o}", metadata.permissions().mode() & 0o7777),
        "uid": metadata.uid(),
        "gid": metadata.gid(),
        "major": major(metadata.rdev()),
        "minor": minor(metadata.rdev()),
        "size": metadata.size(),
        "inode": metadata.ino(),
        "link": fs::read_link(path).ok(),
    })
}

fn list(path: &str) -> Value {
    match fs::read_dir(path) {
        Ok(entries) => {
            let mut names: Vec<String> =
                entries.flatten().map(|entry| entry.file_name().to_string_lossy().into()).collect();
            names.sort();
            json!(names)
        }
        Err(error) => json!({"error": format!("{:?}", Errno::from_raw(error.raw_os_error().unwrap_or(0)))}),
    }
}

fn report(words: &[&str]) -> Value {
    let status = status();
    let user = unistd::getresuid().expect("getresuid");
    let group = unistd::getresgid().expect("getresgid");
    let groups: Vec<u32> = unistd::getgroups().expect("getgroups").iter().map(|gid| gid.as_raw()).collect();
    let system = rustix::system::uname();
    let mut affinity = sched_getaffinity(Pid::this()).expect("sched_getaffinity");
    let mut stdin = Vec::new();
    if words.contains(&"stdin") {
        io::stdin().read_to_end(&mut stdin).expect("read stdin");
    }
    json!({
        "pid": unistd::getpid().as_raw(),
        "ppid": unistd::getppid().as_raw(),
        "pgid": unistd::getpgrp().as_raw(),
        "sid": unistd::getsid(None).ok().map(Pid::as_raw),
        "uid": user.effective.as_raw(),
        "uids": [user.real.as_raw(), user.effective.as_raw(), user.saved.as_raw()],
        "gid": group.effective.as_raw(),
        "gids": [group.real.as_raw(), group.effective.as_raw(), group.saved.as_raw()],
        "groups": groups,
        "umask": status["Umask"],
        "cwd": std::env::current_dir().ok(),
        "args": words,
        "env": std::env::vars().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>(),
        "capabilities": {
            "inheritable": capabilities(&status["CapInh"]),
            "permitted": capabilities(&status["CapPrm"]),
            "effective": capabilities(&status["CapEff"]),
            "bounding": capabilities(&status["CapBnd"]),
            "ambient": capabilities(&status["CapAmb"]),
        },
        "no_new_privs": status["NoNewPrivs"],
        "seccomp": status["Seccomp"],
        "blocked_signals": status["SigBlk"],
        "oom_score_adj": text("/proc/self/oom_score_adj"),
        "rlimits": rlimits(),
        "scheduler": kernel::scheduler(),
        "ioprio": kernel::io_priority(),
        "mempolicy": kernel::memory_policy(),
        "keyring": kernel::session_keyring(),
        "affinity": cpus(&mut affinity),
        "personality": text("/proc/self/personality"),
        "hostname": system.nodename().to_string_lossy(),
        "domainname": system.domainname().to_string_lossy(),
        "machine": system.machine().to_string_lossy(),
        "namespaces": namespaces(),
        "fds": open_files(),
        "mounts": mounts(),
        "cgroup": text("/proc/self/cgroup").lines().collect::<Vec<_>>(),
        "uid_map": text("/proc/self/uid_map").split_whitespace().collect::<Vec<_>>(),
        "gid_map": text("/proc/self/gid_map").split_whitespace().collect::<Vec<_>>(),
        "setgroups": text("/proc/self/setgroups"),
        "time_offsets": text("/proc/self/timens_offsets"),
        "terminal": terminal(),
        "root": list("/"),
        "stdin": String::from_utf8_lossy(&stdin),
    })
}

/// A file's text without its last newline, empty where it cannot be read.
fn text(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default().trim_end().to_string()
}

fn status() -> Value {
    let lines = text("/proc/self/status");
    lines.lines().filter_map(|line| line.split_once(':')).map(|(key, value)| (key, value.trim())).collect()
}

/// A mask of /proc/self/status as names, in the kernel's order.
fn capabilities(mask: &Value) -> Value {
    let Some(mask) = mask.as_str().and_then(|mask| u64::from_str_radix(mask, 16).ok()) else {
        return Value::Null;
    };
    let mut names: Vec<_> =
        caps::all().into_iter().filter(|capability| mask & capability.bitmask() != 0).collect();
    names.sort_by_key(caps::Capability::index);
    json!(names.iter().map(ToString::to_string).collect::<Vec<_>>())
}

fn rlimits() -> Value {
    let resources = [
        ("RLIMIT_AS", Resource::RLIMIT_AS),
        ("RLIMIT_CORE", Resource::RLIMIT_CORE),
        ("RLIMIT_CPU", Resource::RLIMIT_CPU),
        ("RLIMIT_DATA", Resource::RLIMIT_DATA),
        ("RLIMIT_FSIZE", Resource::RLIMIT_FSIZE),
        ("RLIMIT_LOCKS", Resource::RLIMIT_LOCKS),
        ("RLIMIT_MEMLOCK", Resource::RLIMIT_MEMLOCK),
        ("RLIMIT_MSGQUEUE", Resource::RLIMIT_MSGQUEUE),
        ("RLIMIT_NICE", Resource::RLIMIT_NICE),
        ("RLIMIT_NOFILE", Resource::RLIMIT_NOFILE),
        ("RLIMIT_NPROC", Resource::RLIMIT_NPROC),
        ("RLIMIT_RSS", Resource::RLIMIT_RSS),
        ("RLIMIT_RTPRIO", Resource::RLIMIT_RTPRIO),
        ("RLIMIT_RTTIME", Resource::RLIMIT_RTTIME),
        ("RLIMIT_SIGPENDING", Resource::RLIMIT_SIGPENDING),
        ("RLIMIT_STACK", Resource::RLIMIT_STACK),
    ];
    let mut limits = Map::new();
    for (name, resource) in resources {
        let (soft, hard) = getrlimit(resource).expect("getrlimit");
        limits.insert(name.into(), json!([soft, hard]));
    }
    Value::Object(limits)
}

fn cpus(set: &mut CpuSet) -> Vec<usize> {
    (0..CpuSet::count()).filter(|&cpu| set.is_set(cpu).unwrap_or(false)).collect()
}

fn namespaces() -> Value {
    let kinds = ["cgroup", "ipc", "mnt", "net", "pid", "time", "user", "uts"];
    kinds.iter().map(|kind| (*kind, json!(fs::read_link(format!("/proc/self/ns/{kind}")).ok()))).collect()
}

/// Descriptor number to target, without the one that reads the list.
fn open_files() -> Value {
    let mut files = Map::new();
    for number in 0..1024 {
        if let Ok(target) = fs::read_link(format!("/proc/self/fd/{number}")) {
            files.insert(number.to_string(), json!(target));
        }
    }
    Value::Object(files)
}

fn mounts() -> Value {
    text("/proc/self/mountinfo")
        .lines()
        .filter_map(|line| {
            let (left, right) = line.split_once(" - ")?;
            let left: Vec<&str> = left.split(' ').collect();
            let right: Vec<&str> = right.splitn(3, ' ').collect();
            Some(json!({
                "root": left[3],
                "target": left[4],
                "options": left[5].split(',').collect::<Vec<_>>(),
                "propagation": left[6..].iter().map(|tag| tag.split(':').next()).collect::<Vec<_>>(),
                "type": right[0],
                "source": right[1],
                "super": right[2].split(',').collect::<Vec<_>>(),
            }))
        })
        .collect()
}

fn terminal() -> Value {
    let size = rustix::termios::tcgetwinsize(io::stdin()).ok();
    let stat = text("/proc/self/stat");
    // Field 7, counted behind the command, which may hold spaces.
    let device = stat
        .rsplit_once(')')
        .and_then(|(_, rest)| rest.split(' ').nth(5))
        .and_then(|n| n.parse::<i64>().ok());
    json!({
        "stdin": rustix::termios::isatty(io::stdin()),
        "stdout": rustix::termios::isatty(io::stdout()),
        "stderr": rustix::termios::isatty(io::stderr()),
        "controlling": device.is_some_and(|device| device != 0),
        "opens": fs::File::open("/dev/tty").is_ok(),
        "rows": size.map(|size| size.ws_row),
        "columns": size.map(|size| size.ws_col),
    })
}

/// The few questions that no safe wrapper asks.
#[allow(unsafe_code)]
mod kernel {
    use nix::errno::Errno;
    use nix::libc;
    use nix::sys::signal::SigSet;
    use serde_json::{Value, json};

    const POLICIES: [&str; 8] = ["OTHER", "FIFO", "RR", "BATCH", "ISO", "IDLE", "DEADLINE", "EXT"];
    const IO_CLASSES: [&str; 4] = ["NONE", "RT", "BE", "IDLE"];
    const MEMORY_POLICIES: [&str; 7] =
        ["DEFAULT", "PREFERRED", "BIND", "INTERLEAVE", "LOCAL", "PREFERRED_MANY", "WEIGHTED_INTERLEAVE"];

    #[repr(C)]
    #[derive(Default)]
    struct SchedAttr {
        size: u32,
        policy: u32,
        flags: u64,
        nice: i32,
        priority: u32,
        runtime: u64,
        deadline: u64,
        period: u64,
    }

    /// With those that the C library keeps to itself.
    pub fn every_signal() -> SigSet {
        // SAFETY: any bytes are a set.
        let every: libc::sigset_t = unsafe { std::mem::transmute([u8::MAX; size_of::<libc::sigset_t>()]) };
        // SAFETY: as above.
        unsafe { SigSet::from_sigset_t_unchecked(every) }
    }

    /// Only the thread that calls.
    pub fn end_thread() {
        // SAFETY: nothing of this thread's is needed by others.
        unsafe { libc::syscall(libc::SYS_exit, 0) };
    }

    /// Reserves so many pages of 2 MiB.
    pub fn map_huge_pages(number: usize) -> std::io::Result<()> {
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_HUGETLB | libc::MAP_HUGE_2MB;
        // SAFETY: a new mapping, which nobody has a reference into.
        let map = unsafe { libc::mmap(std::ptr::null_mut(), number << 21, libc::PROT_READ, flags, -1, 0) };
        if map == libc::MAP_FAILED { Err(std::io::Error::last_os_error()) } else { Ok(()) }
    }

    pub fn scheduler() -> Value {
        let mut attr = SchedAttr::default();
        let size = size_of::<SchedAttr>();
        // SAFETY: the kernel writes at most `size` bytes, which is what `attr` has.
        let result = unsafe { libc::syscall(libc::SYS_sched_getattr, 0, &raw mut attr, size, 0) };
        if result != 0 {
            return json!({"error": format!("{:?}", Errno::last())});
        }
        json!({
            "policy": POLICIES.get(attr.policy as usize),
            "flags": attr.flags,
            "nice": attr.nice,
            "priority": attr.priority,
            "runtime": attr.runtime,
            "deadline": attr.deadline,
            "period": attr.period,
        })
    }

    pub fn io_priority() -> Value {
        const WHO_PROCESS: i32 = 1;
        // SAFETY: takes and returns numbers only.
        let value = unsafe { libc::syscall(libc::SYS_ioprio_get, WHO_PROCESS, 0) };
        json!({"class": IO_CLASSES.get((value >> 13) as usize), "level": value & 0x1fff})
    }

    pub fn memory_policy() -> Value {
        let (mut mode, mut nodes) = (0i32, [0u64; 16]);
        let bits = 8 * size_of_val(&nodes);
        // SAFETY: the kernel writes one int and at most `bits` bits, which is what `nodes` has.
        let result =
            unsafe { libc::syscall(libc::SYS_get_mempolicy, &raw mut mode, nodes.as_mut_ptr(), bits, 0, 0) };
        if result != 0 {
            return json!({"error": format!("{:?}", Errno::last())});
        }
        let flags = mode & 0xe000;
        json!({"mode": MEMORY_POLICIES.get((mode & 0x1fff) as usize), "flags": flags, "nodes": nodes[0]})
    }

    /// The session keyring's serial number and description, as `keyctl describe @s` has them.
    pub fn session_keyring() -> Value {
        const SESSION: i32 = -3;
        // SAFETY: takes and returns numbers only.
        let id = unsafe { libc::syscall(libc::SYS_keyctl, libc::KEYCTL_GET_KEYRING_ID, SESSION, 0) };
        if id < 0 {
            return json!({"error": format!("{:?}", Errno::last())});
        }
        let mut text = [0u8; 256];
        // SAFETY: the kernel writes at most `text.len()` bytes to `text`.
        let length = unsafe {
            libc::syscall(libc::SYS_keyctl, libc::KEYCTL_DESCRIBE, id, text.as_mut_ptr(), text.len())
        };
        let length = usize::try_from(length).unwrap_or(0).min(text.len());
        let description = String::from_utf8_lossy(&text[..length]);
        json!({"id": id, "description": description.trim_end_matches('\0')})
    }
}
