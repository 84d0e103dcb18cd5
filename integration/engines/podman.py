"""Podman, for root and for a user without: through conmon, configured by containers.conf. No daemon is needed."""

import contextlib
import json
import os
import pwd
import socket
import time

from place import USER, can_raise_limits, group_file, heard, need, needs_criu, needs_iptables, needs_systemd, read, subordinate_ids, systemd, unified, write
from table import PATIENCE, Command, Engine, Failed, Skip, eventually, has, lacks, same, true


class Podman:
    """One user's Podman. `podman(...)` is its command."""

    def __init__(self, place, name, prefix=(), directory=None, settings="/etc/containers"):
        self.place, self.prefix, self.rootless = place, list(prefix), bool(prefix)
        self.directory = directory or place.directory(name)
        self.manager = os.environ.get("ENGINES_CGROUP_MANAGER", "cgroupfs")
        # Where Podman looks by itself, since not all that it starts inherits its environment.
        Command(self.prefix + ["mkdir", "-p", settings])()
        for file, text in (("containers.conf", self.containers_conf()), ("storage.conf", self.storage_conf())):
            write(f"{settings}/{file}", text)
        self.command = self.program("podman")

    def program(self, *words):
        """A command as this Podman's user."""
        return Command(words, prefix=self.prefix)

    def containers_conf(self):
        # Without CAP_SYS_RESOURCE no limit can be raised to what Podman asks for.
        limits = "" if can_raise_limits() else 'default_ulimits = ["nofile=1024:1024", "nproc=1000:1000"]'
        # Else its conmon finds the group gone, at times, in which it looks for an OOM kill (docs/engines.md).
        group = 'annotations = ["run.oci.systemd.subgroup=container"]' if self.manager == "systemd" else ""
        return f"""[containers]
{limits}
{group}
[engine]
cgroup_manager = "{self.manager}"
events_logger = "file"
runtime = "corten"
[engine.runtimes]
corten = ["{self.place.runtime}"]
[network]
network_backend = "netavark"
network_config_dir = "{self.directory}/networks"
"""

    def storage_conf(self):
        return f"""[storage]
driver = "overlay"
graphroot = "{self.directory}/root"
runroot = "{self.directory}/run"
"""

    def __call__(self, *words, **more):
        return self.command(*words, **more)

    def run(self, *words, **more):
        return self.command("run", "--rm", "--network", "none", *words, **more)

    def inspect(self, name, template):
        return self.command("inspect", "--format", "{{" + template + "}}", name)

    def pid(self, name):
        return int(self.inspect(name, ".State.Pid"))

    @contextlib.contextmanager
    def container(self, *options, command=("sleep", "1000"), name="it"):
        try:
            network = [] if any(each.startswith(("--network", "--pod")) for each in options) else ["--network", "none"]
            self.command("run", "--detach", "--name", name, *network, *options, "busy", *command)
            yield name
        finally:
            self.command.any("rm", "--force", "--time", "0", "--volumes", name)

    def settles(self, name, template, want, seconds=30):
        eventually(lambda: same(self.inspect(name, template), want, template), seconds)

    def load(self):
        """The image `busy`, from a root filesystem."""
        archive = self.place.rootfs()
        changes = ["--change", "CMD sh", "--change", "ENV PATH=/bin:/usr/bin"]
        self("import", *changes, archive, "localhost/busy", seconds=120)


@contextlib.contextmanager
def rootful(place):
    need("podman")
    podman = Podman(place, "podman")
    podman.load()
    try:
        yield podman
    finally:
        podman.command.any("rm", "--all", "--force", "--time", "0")


@contextlib.contextmanager
def rootless(place):
    need("podman")
    subordinate_ids()
    user = pwd.getpwnam(USER)
    if systemd():
        Command(["loginctl"])("enable-linger", USER)
        Command(["systemctl"])("start", f"user@{user.pw_uid}.service")
        # As from a shell: what a command leaves behind stays, and with INVOCATION_ID Podman would make no scopes.
        prefix = ["systemd-run", "--quiet", "--user", f"--machine={USER}@.host", "--pipe", "--wait", "--property=Delegate=yes"]
        prefix += ["--property=KillMode=process", "--", "env", "--unset=INVOCATION_ID"]
    else:
        # A longer path is refused by `podman container cleanup`, which nobody hears.
        runtime = f"/run/user/{user.pw_uid}"
        os.makedirs(runtime, exist_ok=True)
        os.chown(runtime, user.pw_uid, user.pw_gid)
        os.chmod(runtime, 0o700)
        prefix = ["setpriv", f"--reuid={USER}", f"--regid={user.pw_gid}", "--init-groups", "env", "-C", user.pw_dir]
        prefix += [f"HOME={user.pw_dir}", f"USER={USER}", f"XDG_RUNTIME_DIR={runtime}"]
    directory = f"{user.pw_dir}/podman"
    Command(prefix)("mkdir", "-p", directory)
    podman = Podman(place, "rootless", prefix, directory, f"{user.pw_dir}/.config/containers")
    podman.load()
    try:
        yield podman
    finally:
        podman.command.any("rm", "--all", "--force", "--time", "0")
        podman.command.any("system", "migrate")


root, user = Engine("podman", rootful), Engine("rootless", rootless)


def both(function):
    return user.row(root.row(function))


# --- its life ---------------------------------------------------------------------------------------------


@both
def info_names_the_runtime_and_its_version(p):
    same(p("info", "--format", "{{.Host.OCIRuntime.Path}}"), p.place.runtime)
    has(p("info", "--format", "{{.Host.OCIRuntime.Version}}"), "version")


@both
def run_prints_and_exits_as_its_process_does(p):
    same(p.run("busy", "echo", "hello"), "hello")
    p.run("busy", "sh", "-c", "exit 7", status=7)
    same(p.run("--interactive", "busy", "wc", "-c", input="x" * 100000), "100000")


@both
def run_with_the_runtime_named(p):
    same(p("--runtime", p.place.runtime, "run", "--rm", "--network", "none", "busy", "echo", "hello"), "hello")


@both
def run_it_has_a_real_terminal_that_can_be_resized(p):
    words = ("run", "--rm", "--network", "none", "--interactive", "--tty", "busy", "sh")
    with p.command.terminal(*words, size=(31, 97)) as terminal:
        terminal.expect("# ")
        terminal.send("tty\n")
        terminal.expect("/dev/pts/0")
        terminal.shows_its_size(31, 97)
        terminal.follows(40, 120)
        terminal.send("exit 3\n")
        terminal.ends(3)


@both
def exec_runs_another_process_as_told(p):
    with p.container() as name:
        has(p("exec", name, "ps"), "sleep 1000")
        p("exec", name, "sh", "-c", "exit 9", status=9)
        options = ("--user", "guest", "--workdir", "/tmp", "--env", "A=b")
        same(p("exec", *options, name, "sh", "-c", "id -u; pwd; echo $A"), "1000\n/tmp\nb")
        same(p("exec", "--interactive", name, "cat", input="through"), "through")
        p("exec", "--detach", name, "touch", "/tmp/made")
        eventually(lambda: p("exec", name, "test", "-f", "/tmp/made"))
        with p.command.terminal("exec", "--interactive", "--tty", name, "sh") as terminal:
            terminal.send("tty; exit 4\n")
            terminal.expect("/dev/pts/0")
            terminal.ends(4)


@both
def run_and_exec_say_125_126_and_127_and_why(p):
    run = ("run", "--rm", "--network", "none", "busy")
    has(p.command.error(*run, "no-such-program", status=127), "executable file")
    has(p.command.error(*run, "/etc/passwd", status=126), "ermission denied")
    p.command.error(*run, "/etc", status=126)
    p.command.error("run", "--no-such-option", "busy", status=125)
    with p.container() as name:
        p.command.error("exec", name, "no-such-program", status=127)
        p.command.error("exec", name, "/etc/passwd", status=126)
        p.command.error("exec", name, "/etc", status=126)


@both
def logs_and_attach(p):
    with p.container("--interactive", "--tty", command=("sh", "-c", "echo began; exec sh")) as name:
        eventually(lambda: has(p("logs", name), "began"))
        with p.command.terminal("attach", name) as terminal:
            time.sleep(1)
            terminal.send("echo at$((1+1))ached\n")
            terminal.expect("at2ached")
        same(p.inspect(name, ".State.Status"), "running")


@both
def stop_sends_its_signal_and_kills_after_its_timeout(p):
    with p.container("--stop-signal", "USR1", command=("sh", "-c", "trap 'exit 42' USR1; sleep 1000 & wait")) as name:
        time.sleep(0.5)
        p("stop", name)
        same(p.inspect(name, ".State.ExitCode"), "42")
    with p.container(command=("sh", "-c", "trap '' TERM; while :; do sleep 1; done")) as name:
        time.sleep(0.5)
        p("stop", "--time", "1", name)
        same(p.inspect(name, ".State.ExitCode"), "137")


@both
def kill_wait_start_and_restart(p):
    with p.container(command=("sh", "-c", "trap 'echo got' HUP; while :; do sleep 0.1; done")) as name:
        time.sleep(0.5)
        p("kill", "--signal", "HUP", name)
        eventually(lambda: has(p("logs", name), "got"))
        p("kill", name)
        same(p("wait", name), "137")
        p("start", name)
        p("restart", "--time", "0", name)
        same(p.inspect(name, ".State.Status"), "running")


@both
def pause_holds_it_and_unpause_lets_it_go(p):
    needs_groups(p)
    with p.container() as name:
        p("pause", name)
        same(p.inspect(name, ".State.Status"), "paused")
        p("unpause", name)
        same(p.inspect(name, ".State.Status"), "running")


def needs_groups(p):
    if p.rootless and not unified():
        raise Skip("a user has no control groups on cgroup v1")


@both
def top_stats_and_inspect_tell_what_it_does(p):
    with p.container() as name:
        has(p("top", name), "sleep 1000")
        true(os.path.exists(f"/proc/{p.pid(name)}"), "its process is not there")
        needs_groups(p)
        stats = json.loads(p("stats", "--no-stream", "--format", "json", name))
        same(stats[0]["pids"], "1", "pids")


@both
def a_healthcheck_tells_health(p):
    with p.container("--health-cmd", "test -f /tmp/well", "--health-interval", "disable", "--health-retries", "1") as name:
        p("healthcheck", "run", name, status=1)
        p("exec", name, "touch", "/tmp/well")
        p("healthcheck", "run", name)
        same(p.inspect(name, ".State.Health.Status"), "healthy")


@both
def a_healthcheck_comes_round_by_itself(p):
    """By a timer of systemd's."""
    needs_systemd()
    with p.container("--health-cmd", "test -f /tmp/well", "--health-interval", "2s", "--health-retries", "1") as name:
        p.settles(name, ".State.Health.Status", "unhealthy")
        p("exec", name, "touch", "/tmp/well")
        p.settles(name, ".State.Health.Status", "healthy")


@both
def a_restart_policy_starts_it_again(p):
    with p.container("--restart", "on-failure:2", command=("false",)) as name:
        p.settles(name, ".RestartCount", "2")


COUNTING = ("sh", "-c", "i=0; while echo $((i=i+1)) > /count; do sleep 0.1; done")


def count(p, name):
    return int(p("exec", name, "cat", "/count") or 0)


@root.row
def a_checkpoint_goes_on_where_it_was(p):
    needs_criu()
    with p.container(command=COUNTING) as name:
        eventually(lambda: true(count(p, name) > 3, "it does not count"))
        before = count(p, name)
        p("container", "checkpoint", name, seconds=120)
        same(p.inspect(name, ".State.Running"), "false", "whether it runs")
        p("container", "restore", name, seconds=120)
        eventually(lambda: true(count(p, name) > before, "it does not go on"))


@root.row
def a_checkpoint_is_exported_and_restored_under_another_name(p):
    needs_criu()
    archive = f"{p.directory}/checkpoint.tar.gz"
    with p.container(command=COUNTING) as name:
        eventually(lambda: true(count(p, name) > 3, "it does not count"))
        p("container", "checkpoint", "--leave-running", "--export", archive, name, seconds=120)
        before = count(p, name)
        true(before > 3, "it was not left running")
        try:
            p("container", "restore", "--import", archive, "--name", "twin", seconds=120)
            eventually(lambda: true(count(p, "twin") > before, "it does not go on"))
            same(p.inspect(name, ".State.Running"), "true", "whether the first runs")
        finally:
            p.command.any("rm", "--force", "--time", "0", "twin")


# --- limits and rights --------------------------------------------------------------------------------------


@both
def limits_are_in_force_and_update_changes_them(p):
    needs_groups(p)
    options = ("--memory", "64m", "--cpus", "0.5", "--pids-limit", "50")
    with p.container(*options) as name:
        pid = p.pid(name)
        same(group_file(pid, "memory", "memory.max" if unified() else "memory.limit_in_bytes"), "67108864")
        same(group_file(pid, "cpu", "cpu.max" if unified() else "cpu.cfs_quota_us").split()[0], "50000")
        same(group_file(pid, "pids", "pids.max"), "50")
        p("update", "--memory", "96m", "--cpus", "0.25", name)
        same(group_file(pid, "memory", "memory.max" if unified() else "memory.limit_in_bytes"), str(96 << 20))
        same(group_file(pid, "cpu", "cpu.max" if unified() else "cpu.cfs_quota_us").split()[0], "25000")


@both
def too_much_memory_is_an_oom_kill(p):
    needs_groups(p)

    def killed():
        with p.container("--memory", "16m", "--memory-swap", "16m", command=("tail", "/dev/zero")) as name:
            same(p("wait", name), "137")
            if not unified() and p.inspect(name, ".State.OOMKilled") == "false":
                raise Skip("killed with 137, but this conmon hears no notice of it on cgroup v1, whatever the runtime")
            same(p.inspect(name, ".State.OOMKilled"), "true")

    heard(killed)


@both
def capabilities_seccomp_and_no_new_privileges(p):
    def status(*options):
        text = p.run(*options, "busy", "cat", "/proc/self/status")
        return dict(line.split(":", 1) for line in text.splitlines() if ":" in line)

    same(status("--cap-drop", "all", "--cap-add", "chown")["CapEff"].strip(), "0" * 15 + "1")
    same(status()["Seccomp"].strip(), "2")
    same(status("--security-opt", "seccomp=unconfined")["Seccomp"].strip(), "0")
    same(status("--security-opt", "no-new-privileges")["NoNewPrivs"].strip(), "1")


@both
def privileged_may_do_what_others_may_not(p):
    has(p.command.any("run", "--rm", "--network", "none", "busy", "mount", "-t", "tmpfs", "none", "/tmp").stderr, "denied")
    p.run("--privileged", "busy", "mount", "-t", "tmpfs", "none", "/tmp")


@both
def init_read_only_tmpfs_ulimit_and_sysctl(p):
    has(p.run("--init", "busy", "cat", "/proc/1/cmdline"), "init")
    p.run("--read-only", "busy", "touch", "/x", status=1)
    p.run("--read-only", "--tmpfs", "/mine", "busy", "touch", "/mine/x")
    same(p.run("--ulimit", "nofile=512:600", "--ulimit", "nproc=900:1000", "busy", "sh", "-c", "ulimit -n; ulimit -H -n"), "512\n600")
    same(p.run("--sysctl", "net.ipv4.ip_forward=1", "busy", "cat", "/proc/sys/net/ipv4/ip_forward"), "1")


@both
def devices_are_there(p):
    p.run("--device", "/dev/null:/dev/mine", "busy", "sh", "-c", "echo > /dev/mine")


# --- namespaces, users and files ------------------------------------------------------------------------------


@both
def pid_network_and_ipc_are_shared_as_told(p):
    with p.container("--ipc", "shareable") as name:
        has(p.run("--pid", f"container:{name}", "busy", "ps"), "sleep 1000")
        p("exec", name, "touch", "/dev/shm/shared")
        p.run("--ipc", f"container:{name}", "busy", "test", "-f", "/dev/shm/shared")
        inside = p("exec", name, "readlink", "/proc/self/ns/net")
        joined = p("run", "--rm", "--network", f"container:{name}", "busy", "readlink", "/proc/self/ns/net")
        same(joined, inside)
    same(p("run", "--rm", "--network", "host", "busy", "readlink", "/proc/self/ns/net"), os.readlink("/proc/self/ns/net"))


@both
def userns_auto_gives_each_its_own_range(p):
    with open("/etc/subuid") as file:
        if not any(line.startswith("containers:") for line in file):
            for name in ("subuid", "subgid"):
                with open(f"/etc/{name}", "a") as file:
                    file.write("containers:2147483647:2147483648\n")
    lacks(p.run("--userns", "auto:size=1024", "busy", "cat", "/proc/self/uid_map"), "4294967295")
    with p.container("--userns", "auto:size=1024", name="one"), p.container("--userns", "auto:size=1024", name="two"):
        true(read(f"/proc/{p.pid('one')}/uid_map") != read(f"/proc/{p.pid('two')}/uid_map"), "both have the same ids")


@user.row
def userns_keep_id_is_oneself(p):
    same(p.run("--userns", "keep-id", "busy", "id", "-u"), str(pwd.getpwnam(USER).pw_uid))


@root.row
def a_uidmap_puts_it_into_a_user_namespace(p):
    same(p.run("--uidmap", "0:200000:1000", "--gidmap", "0:200000:1000", "busy", "cat", "/proc/self/uid_map").split(), ["0", "200000", "1000"])


@root.row
def a_volume_is_idmapped(p):
    source = p.place.directory("podman", "owned")
    options = ("--uidmap", "0:200000:1000", "--gidmap", "0:200000:1000", "--volume", f"{source}:/v:idmap")
    done = p.command.any("run", "--rm", "--network", "none", *options, "busy", "sh", "-c", "touch /v/file; stat -c %u /v/file")
    same((done.returncode, done.stdout.strip()), (0, "0"), f"owner inside ({done.stderr})")
    same(os.stat(f"{source}/file").st_uid, 0, "owner outside")


@both
def volumes_are_mounted(p):
    try:
        p.run("--volume", "kept:/data", "busy", "sh", "-c", "echo kept > /data/file")
        same(p.run("--volume", "kept:/data:ro", "busy", "cat", "/data/file"), "kept")
        p.run("--volume", "kept:/data:ro", "busy", "touch", "/data/x", status=1)
        p.run("--mount", "type=tmpfs,destination=/t", "busy", "touch", "/t/x")
    finally:
        p("volume", "rm", "kept")


@both
def what_a_container_changes_can_be_committed(p):
    with p.container() as name:
        p("exec", name, "sh", "-c", "echo new > /new")
        has(p("diff", name), "A /new")
        p("commit", "--quiet", name, "localhost/committed")
        same(p.run("localhost/committed", "cat", "/new"), "new")
    p.run("busy", "test", "-e", "/new", status=1)


@both
def a_build_runs_its_steps(p):
    p.place.file("context/Containerfile", "FROM localhost/busy\nRUN echo built > /built && id -u > /uid\nUSER guest\nRUN id -u > /tmp/uid\nCMD cat /built /uid /tmp/uid\n")
    p("build", "--network", "none", "--tag", "localhost/built", f"{p.place.work}/context", seconds=120)
    same(p.run("localhost/built"), "built\n0\n1000")


@both
def a_debian_installs_and_adds_users(p):
    p("import", p.place.debian, "localhost/debian", seconds=180)
    line = """set -e
useradd --create-home --shell /bin/bash someone
mkdir -p /made/DEBIAN
printf '%s\\n' 'Package: made' 'Version: 1' 'Architecture: all' 'Maintainer: me' 'Description: made' > /made/DEBIAN/control
dpkg-deb --build /made /tmp && apt-get install --yes /tmp/made_1_all.deb
dpkg-query --show made
su --login someone --command 'id --user --name; pwd; echo $BASH'"""
    seen = p.run("localhost/debian", "bash", "-c", line, seconds=180).splitlines()
    same(seen[-4:], ["made\t1", "someone", "/home/someone", "/bin/bash"], "the end of what it said")
    p("rmi", "localhost/debian")


# --- pods -----------------------------------------------------------------------------------------------------


@both
def a_pod_shares_its_namespaces(p):
    p("pod", "create", "--network", "none", "--name", "peas", seconds=120)
    try:
        with p.container("--pod", "peas", name="one"), p.container("--pod", "peas", name="two"):
            for kind in ("net", "ipc", "uts"):
                same(p("exec", "one", "readlink", f"/proc/self/ns/{kind}"), p("exec", "two", "readlink", f"/proc/self/ns/{kind}"), kind)
            same(p("pod", "inspect", "--format", "{{.State}}", "peas"), "Running")
            if not (p.rootless and not unified()):
                p("pod", "pause", "peas")
                p("pod", "unpause", "peas")
            p("pod", "stop", "--time", "0", "peas")
            p("pod", "start", "peas")
    finally:
        p("pod", "rm", "--force", "--time", "0", "peas")


@both
def kube_play_runs_a_pod_and_down_ends_it(p):
    path = p.place.file("pod.yaml", """apiVersion: v1
kind: Pod
metadata:
  name: web
spec:
  hostNetwork: true
  containers:
  - name: one
    image: localhost/busy:latest
    imagePullPolicy: Never
    command: [sh, -c, 'echo $GREETING > /shared/file; sleep 1000']
    env: [{name: GREETING, value: hello}]
    volumeMounts: [{name: shared, mountPath: /shared}]
  - name: two
    image: localhost/busy:latest
    imagePullPolicy: Never
    command: [sleep, '1000']
    securityContext: {readOnlyRootFilesystem: true, capabilities: {drop: [ALL]}}
    volumeMounts: [{name: shared, mountPath: /shared}]
  volumes:
  - {name: shared, emptyDir: {}}
""")
    p("play", "kube", path, seconds=120)
    try:
        eventually(lambda: same(p("exec", "web-two", "cat", "/shared/file"), "hello"))
        p("exec", "web-two", "touch", "/x", status=1)
        has(p("generate", "kube", "web"), "kind: Pod")
    finally:
        p("play", "kube", "--down", path)
    same(p("pod", "ls", "--quiet"), "", "pods")


# --- networks and systemd ---------------------------------------------------------------------------------------


@root.row
def a_published_port_answers_over_the_bridge(p):
    needs_iptables()
    web = ("sh", "-c", "mkdir /w; echo served > /w/index.html; httpd -f -p 80 -h /w")
    with p.container("--network", "bridge", "--publish", "8081:80", command=web) as name:
        address = p.inspect(name, ".NetworkSettings.IPAddress")
        eventually(lambda: same(Command(["busybox", "wget", "-q", "-O", "-"])(f"http://{address}/"), "served"))


@user.row
def a_users_network_is_of_its_own(p):
    if not os.path.exists("/dev/net/tun") or not os.stat("/dev/net/tun").st_mode & 0o002:
        raise Skip("users have no /dev/net/tun")
    # Not whatever is the default: pasta copies a route of the host's, which may have none.
    has(p("run", "--rm", "--network", "slirp4netns", "busy", "ip", "-4", "addr"), "inet 10.0.2.100")


NOTIFY = "import os, socket; socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM).sendto(b'READY=1', os.environ['NOTIFY_SOCKET'])"


@both
def sdnotify_container_tells_when_it_is_ready(p):
    """The container's own READY arrives at the socket of whoever waits for it."""
    path = f"{p.directory}/notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as waiting:
        waiting.bind(path)
        waiting.settimeout(60 * PATIENCE)
        os.chmod(path, 0o666)
        notifying = p.program("env", f"NOTIFY_SOCKET={path}", *p.command.words)
        host = [f"--volume={each}:{each}:ro" for each in ("/usr", "/lib", "/lib64")]
        words = ("run", "--detach", "--name", "ready", "--network", "none", "--sdnotify", "container", *host, "busy")
        try:
            notifying(*words, "sh", "-c", f'/usr/bin/python3 -c "{NOTIFY}"; sleep 1000')
            seen = ""
            while "READY=1" not in seen:
                seen += waiting.recv(4096).decode() + "\n"
            has(seen, "MAINPID=")
        except TimeoutError:
            raise Failed(f"only {seen!r} came") from None
        finally:
            p.command.any("rm", "--force", "--time", "0", "ready")


@both
def a_generated_unit_runs_it(p):
    units = Units(p)
    with p.container(name="unit") as name:
        unit = p("generate", "systemd", "--new", name)
    kind = "user" if p.rootless else "system"
    units.runs(f"systemd/{kind}/corten-generated.service", unit)


@both
def a_quadlet_unit_runs_it(p):
    units = Units(p)
    if not os.path.exists("/usr/lib/systemd/system-generators/podman-system-generator"):
        raise Skip("this Podman has no Quadlet")
    units.runs("containers/systemd/corten-quadlet.container", """[Container]
Image=localhost/busy
Exec=sleep 1000
Network=none
""")


class Units:
    """Whoever starts this user's services."""

    def __init__(self, p):
        needs_systemd()
        self.p = p
        self.systemctl = Command(["systemctl", *(["--user", f"--machine={USER}@.host"] if p.rootless else [])])

    def runs(self, path, text):
        """Writes a unit, starts it, sees its container run, and stops it."""
        path = (f"{pwd.getpwnam(USER).pw_dir}/.config/" if self.p.rootless else "/etc/") + path
        directory, file = os.path.split(path)
        name = os.path.splitext(file)[0] + ".service"
        Command(self.p.prefix)("mkdir", "-p", directory)
        write(path, text)
        try:
            self.systemctl("daemon-reload")
            self.systemctl("start", name, seconds=90)
            same(self.systemctl("is-active", name), "active")
            has(self.p("ps", "--format", "{{.Command}}"), "sleep 1000")
            self.systemctl("stop", name, seconds=90)
            lacks(self.p("ps", "--format", "{{.Command}}"), "sleep 1000")
        finally:
            self.systemctl.any("stop", name)
            os.remove(path)
            self.systemctl("daemon-reload")
