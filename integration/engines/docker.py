"""Docker: dockerd with corten as its default runtime, on a containerd and in directories of its own."""

import contextlib
import json
import os
import re
import time

import containerd as lower
from place import USER, group_file, heard, need, needs_apparmor, needs_criu, needs_iptables, needs_mounted_hierarchies, read, subordinate_ids, unified
from table import Command, Engine, Skip, daemon, eventually, has, lacks, same, true


class Docker:
    """One dockerd. `docker(...)` is the client's command."""

    def __init__(self, place, name, containerd_socket, **settings):
        self.place, self.name = place, name
        self.directory = place.directory(name)
        self.socket = f"unix://{self.directory}/socket"
        self.log = f"{self.directory}/log"
        self.command = Command(["docker", "--host", self.socket], {"DOCKER_CONFIG": self.directory + "/client"})
        manager = os.environ.get("ENGINES_CGROUP_MANAGER", "cgroupfs")
        # Of our own for one container; systemd has it as a slice.
        self.parent = "corten.slice" if manager == "systemd" else "/of-our-own"
        self.settings = {
            "runtimes": {"corten": {"path": place.runtime}},
            "default-runtime": "corten",
            "data-root": f"{self.directory}/data",
            "exec-root": f"{self.directory}/exec",
            "pidfile": f"{self.directory}/pid",
            "containerd": containerd_socket,
            "hosts": [self.socket],
            "exec-opts": [f"native.cgroupdriver={manager}"],
            "bip": "10.213.0.1/16",
            "userland-proxy": False,
            "experimental": True,
            "debug": True,
            **settings,
        }
        if settings.get("bridge") == "none":
            del self.settings["bip"]
        self.process = None

    @contextlib.contextmanager
    def served(self, prefix=()):
        config = self.place.file(f"{self.name}/daemon.json", json.dumps(self.settings))
        argv = [*prefix, "dockerd", "--config-file", config, "--containerd-namespace", self.name]
        argv += ["--containerd-plugins-namespace", f"plugins.{self.name}"]
        with daemon(argv, self.log, lambda: self.command("version"), seconds=60) as process:
            self.process = process
            yield self

    def __call__(self, *words, **more):
        return self.command(*words, **more)

    def run(self, *words, **more):
        return self.command("run", "--rm", *words, **more)

    def inspect(self, name, template):
        return self.command("inspect", "--format", "{{" + template + "}}", name)

    def pid(self, name):
        return int(self.inspect(name, ".State.Pid"))

    @contextlib.contextmanager
    def container(self, *options, command=("sleep", "1000"), name="it"):
        """A container in the background, removed at the end."""
        self.command.any("rm", "--force", "--volumes", name)
        try:
            self.command("run", "--detach", "--name", name, *options, "busy", *command)
            yield name
        finally:
            self.command.any("rm", "--force", "--volumes", name)

    def settles(self, name, template, want, seconds=30):
        eventually(lambda: same(self.inspect(name, template), want, template), seconds)


def load(docker):
    """The image `busy`, from a root filesystem."""
    archive = docker.place.rootfs()
    docker("import", "--change", 'CMD ["sh"]', "--change", "ENV PATH=/bin:/usr/bin", archive, "busy", seconds=120)


@contextlib.contextmanager
def start(place):
    need("dockerd", "docker.io")
    try:
        needs_iptables()
        network = {}
    except Skip:
        network = {"iptables": False, "bridge": "none"}
    with lower.serve(place, "docker-containerd") as (socket, again), again():
        docker = Docker(place, "docker", socket, **{"live-restore": True}, **network)
        with contextlib.ExitStack() as daemons:
            daemons.enter_context(docker.served())
            docker.daemons = daemons
            load(docker)
            yield docker


docker = Engine("docker", start)

# --- its life -----------------------------------------------------------------------------------------------


@docker.row
def info_names_the_runtime_and_its_version(d):
    same(d("info", "--format", "{{.DefaultRuntime}}"), "corten")
    has(d("info", "--format", "{{.Runtimes}}"), d.place.runtime)


@docker.row
def run_prints_and_exits_as_its_process_does(d):
    same(d.run("busy", "echo", "hello"), "hello")
    d.run("busy", "sh", "-c", "exit 7", status=7)
    d.run("--init", "busy", "sh", "-c", "kill -KILL $$", status=137)


@docker.row
def run_with_the_runtime_named(d):
    with d.container("--runtime", "corten") as name:
        same(d.inspect(name, ".HostConfig.Runtime"), "corten")


@docker.row
def run_i_reads_standard_input(d):
    same(d.run("--interactive", "busy", "wc", "-c", input="x" * 100000), "100000")


@docker.row
def run_it_has_a_real_terminal_that_can_be_resized(d):
    with d.command.terminal("run", "--rm", "--interactive", "--tty", "busy", size=(31, 97)) as terminal:
        terminal.expect("# ")
        terminal.send("tty\n")
        terminal.expect("/dev/pts/0")
        terminal.shows_its_size(31, 97)
        terminal.follows(40, 120)
        terminal.send("sleep 100\n")
        time.sleep(1)
        terminal.send("\x03")
        terminal.send("exit 3\n")
        terminal.ends(3)


@docker.row
def exec_runs_another_process_as_told(d):
    with d.container() as name:
        has(d("exec", name, "ps"), "sleep 1000")
        d("exec", name, "sh", "-c", "exit 9", status=9)
        same(d("exec", "--user", "guest", "--workdir", "/tmp", "--env", "A=b", name, "sh", "-c", "id -u; pwd; echo $A"), "1000\n/tmp\nb")
        same(d("exec", "--interactive", name, "cat", input="through"), "through")
        d("exec", "--detach", name, "touch", "/tmp/made")
        eventually(lambda: d("exec", name, "test", "-f", "/tmp/made"))
        has(d("exec", "--privileged", name, "grep", "CapEff", "/proc/self/status"), "ff")


@docker.row
def exec_it_has_a_terminal(d):
    with d.container() as name, d.command.terminal("exec", "--interactive", "--tty", name, "sh", size=(20, 70)) as terminal:
        terminal.expect("# ")
        terminal.shows_its_size(20, 70)
        terminal.send("exit 4\n")
        terminal.ends(4)


@docker.row
def exec_says_126_and_127_and_why(d):
    with d.container() as name:
        # Docker prints what the runtime said as the output of the command; before 23 it never said 127.
        for program, statuses, words in (
            ("no-such-program", (126, 127), "executable file not found in $PATH"),
            ("/etc/passwd", (126,), "permission denied"),
            ("/etc", (126,), "is a directory"),
        ):
            done = d.command.any("exec", name, program)
            has(done.stdout + done.stderr, words)
            true(done.returncode in statuses, f"status {done.returncode} for {words}")


@docker.row
def logs_are_what_it_printed(d):
    with d.container(command=("sh", "-c", "echo out; echo err >&2; sleep 1000")) as name:
        eventually(lambda: has(d("logs", name), "out"))
        has(d.command.any("logs", name).stderr, "err")


@docker.row
def attach_is_connected_to_its_process(d):
    with d.container("--interactive", "--tty", command=("sh",)) as name, d.command.terminal("attach", name) as terminal:
        time.sleep(1)
        terminal.send("echo at$((1+1))ached\n")
        terminal.expect("at2ached")
        terminal.send("\x10\x11")
        terminal.expect("read escape sequence")
        same(d.inspect(name, ".State.Status"), "running")


@docker.row
def stop_sends_its_signal(d):
    with d.container("--stop-signal", "USR1", command=("sh", "-c", "trap 'exit 42' USR1; sleep 1000 & wait")) as name:
        time.sleep(0.5)
        d("stop", name)
        same(d.inspect(name, ".State.ExitCode"), "42")


@docker.row
def stop_kills_after_its_timeout(d):
    with d.container(command=("sh", "-c", "trap '' TERM; while :; do sleep 1; done")) as name:
        time.sleep(0.5)
        d("stop", "--time", "1", name)
        same(d.inspect(name, ".State.ExitCode"), "137")


@docker.row
def kill_sends_any_signal(d):
    with d.container(command=("sh", "-c", "trap 'echo got' HUP; while :; do sleep 0.1; done")) as name:
        time.sleep(0.5)
        d("kill", "--signal", "HUP", name)
        eventually(lambda: has(d("logs", name), "got"))
        d("kill", name)
        d.settles(name, ".State.ExitCode", "137")


@docker.row
def start_restart_wait_and_rename(d):
    with d.container(command=("sh", "-c", "echo lived; sleep 1000"), name="first") as name:
        d("restart", "--time", "0", name)
        eventually(lambda: same(d("logs", name).count("lived"), 2, "number of lives"))
        d("rename", name, "second")
        d("kill", "second")
        same(d("wait", "second"), "137")
        d("start", "second")
        same(d.inspect("second", ".State.Status"), "running")
        d("rename", "second", name)


@docker.row
def pause_holds_it_and_unpause_lets_it_go(d):
    with d.container(command=("sh", "-c", "while :; do date +%N; sleep 0.1; done")) as name:
        d("pause", name)
        same(d.inspect(name, ".State.Status"), "paused")
        before = d("logs", name)
        time.sleep(0.5)
        same(d("logs", name), before, "what a paused container printed")
        d("unpause", name)
        eventually(lambda: true(d("logs", name) != before, "it does not go on"))


@docker.row
def a_paused_container_can_be_stopped_and_removed(d):
    with d.container() as name:
        d("pause", name)
        d("rm", "--force", name)


@docker.row
def top_stats_and_inspect_tell_what_it_does(d):
    needs_mounted_hierarchies()
    with d.container("--memory", "64m") as name:
        has(d("top", name), "sleep 1000")
        stats = json.loads(d("stats", "--no-stream", "--format", "{{json .}}", name))
        has(stats["MemUsage"], "64MiB")
        same(stats["PIDs"], "1", "PIDs")
        true(os.path.exists(f"/proc/{d.pid(name)}"), "its process is not there")


@docker.row
def a_healthcheck_turns_healthy_and_unhealthy(d):
    check = ("--health-cmd", "test -f /tmp/well", "--health-interval", "1s", "--health-retries", "1")
    with d.container(*check) as name:
        d.settles(name, ".State.Health.Status", "unhealthy")
        d("exec", name, "touch", "/tmp/well")
        d.settles(name, ".State.Health.Status", "healthy")


@docker.row
def a_restart_policy_starts_it_again(d):
    with d.container("--restart", "on-failure:2", command=("false",)) as name:
        d.settles(name, ".RestartCount", "2")
        d.settles(name, ".State.Status", "exited")


@docker.row
def many_containers_live_at_once(d):
    with contextlib.ExitStack() as stack:
        names = [stack.enter_context(d.container(name=f"many{i}")) for i in range(10)]
        for name in names:
            same(d.inspect(name, ".State.Status"), "running")


@docker.row
def a_checkpoint_goes_on_where_it_was(d):
    needs_criu()
    line = "i=0; while echo $((i=i+1)); do sleep 0.1; done"
    with d.container("--network", "none", "--security-opt", "seccomp=unconfined", command=("sh", "-c", line)) as name:
        eventually(lambda: has(d("logs", name), "5\n"))
        d("checkpoint", "create", name, "one", seconds=120)
        d.settles(name, ".State.Status", "exited")
        before = len(d("logs", name).splitlines())
        d("start", "--checkpoint", "one", name, seconds=120)
        eventually(lambda: has(d("logs", name), f"\n{before + 5}\n"))
        same(d("logs", name).splitlines().count("1"), 1, "number of lives")


@docker.row
def containers_outlive_the_daemon(d):
    """Live restore: the daemon is killed, and the next one finds them."""
    with d.container(command=("sh", "-c", "while :; do date +%N; sleep 0.2; done")) as name:
        pid = d.pid(name)
        d.process.kill()
        d.daemons.close()
        true(os.path.exists(f"/proc/{pid}"), "it died with the daemon")
        d.daemons.enter_context(d.served())
        same(d.pid(name), pid, "its process")
        same(d("exec", name, "echo", "here"), "here")
        d("stop", "--time", "0", name)


# --- limits ---------------------------------------------------------------------------------------------------


def limit(d, options, controller, v1, v2):
    with d.container(*options) as name:
        file, want = v2 if unified() else v1
        same(group_file(d.pid(name), controller, file), want, file)


@docker.row
def memory_is_limited(d):
    limit(d, ["--memory", "64m"], "memory", ("memory.limit_in_bytes", "67108864"), ("memory.max", "67108864"))


@docker.row
def memory_swap_and_reservation_are_limited(d):
    options = ["--memory", "64m", "--memory-reservation", "32m", "--memory-swap", "64m"]
    limit(d, options, "memory", ("memory.soft_limit_in_bytes", "33554432"), ("memory.low", "33554432"))


@docker.row
def too_much_memory_is_an_oom_kill(d):
    needs_mounted_hierarchies()

    def killed():
        with d.container("--memory", "16m", "--memory-swap", "16m", command=("tail", "/dev/zero")) as name:
            same(d("wait", name), "137")
            same(d.inspect(name, ".State.OOMKilled"), "true")

    heard(killed)


@docker.row
def cpus_are_limited(d):
    limit(d, ["--cpus", "0.5"], "cpu", ("cpu.cfs_quota_us", "50000"), ("cpu.max", "50000 100000"))


@docker.row
def cpu_shares_are_set(d):
    with d.container("--cpu-shares", "512") as name:
        if unified():
            # As runc has it since 1.3.2, or as all had it before.
            true(group_file(d.pid(name), "cpu", "cpu.weight") in ("59", "20"), "cpu.weight is another")
        else:
            same(group_file(d.pid(name), "cpu", "cpu.shares"), "512", "cpu.shares")


@docker.row
def cpuset_cpus_are_limited(d):
    limit(d, ["--cpuset-cpus", "1"], "cpuset", ("cpuset.cpus", "1"), ("cpuset.cpus", "1"))


@docker.row
def pids_are_limited(d):
    limit(d, ["--pids-limit", "50"], "pids", ("pids.max", "50"), ("pids.max", "50"))


@docker.row
def blkio_weight_is_set(d):
    done = d.command.any("run", "--rm", "--blkio-weight", "300", "busy", "true")
    if "does not support Block I/O weight" in done.stderr:
        raise Skip("dockerd finds no file for the weight in this kernel, and discards it")
    with d.container("--blkio-weight", "300") as name:
        if not unified():
            same(group_file(d.pid(name), "blkio", "blkio.weight"), "300", "blkio.weight")
        elif os.path.exists("/sys/fs/cgroup/system.slice/io.bfq.weight"):
            has(group_file(d.pid(name), "io", "io.bfq.weight"), "default 300")
        else:
            has(group_file(d.pid(name), "io", "io.weight"), "default 2930")


@docker.row
def block_devices_are_throttled(d):
    device = next((f"/dev/{each}" for each in sorted(os.listdir("/sys/block")) if not each.startswith(("loop", "ram"))), None)
    if not device or not os.path.exists(device):
        raise Skip("no block device")
    with d.container("--device-read-bps", f"{device}:1mb") as name:
        file = "io.max" if unified() else "blkio.throttle.read_bps_device"
        # dockerd 26 asks for none on cgroup v2.
        tasks = f"{d.place.work}/docker-containerd/state/io.containerd.runtime.v2.task"
        asked = json.loads(read(f"{tasks}/{d.name}/{d.inspect(name, '.Id')}/config.json"))["linux"]["resources"]
        if not asked.get("blockIO", {}).get("throttleReadBpsDevice"):
            raise Skip("dockerd leaves the limit out of the config.json that it gives to the runtime")
        has(group_file(d.pid(name), "io" if unified() else "blkio", file), "1048576")


@docker.row
def update_changes_limits(d):
    with d.container("--memory", "64m") as name:
        d("update", "--memory", "96m", "--memory-swap", "96m", "--cpus", "0.25", "--pids-limit", "77", name)
        pid = d.pid(name)
        same(group_file(pid, "memory", "memory.max" if unified() else "memory.limit_in_bytes"), str(96 << 20))
        same(group_file(pid, "cpu", "cpu.max" if unified() else "cpu.cfs_quota_us").split()[0], "25000")
        same(group_file(pid, "pids", "pids.max"), "77")


@docker.row
def ulimits_are_set(d):
    same(d.run("--ulimit", "nofile=512:600", "busy", "sh", "-c", "ulimit -n; ulimit -H -n"), "512\n600")


@docker.row
def cgroup_parent_is_where_it_is(d):
    with d.container("--cgroup-parent", d.parent) as name:
        has(read(f"/proc/{d.pid(name)}/cgroup"), f"{d.parent}/")


@docker.row
def cgroupns_is_private_or_the_hosts(d):
    private = d.run("--cgroupns", "private", "busy", "cat", "/proc/self/cgroup")
    lacks(private, "docker")
    shared = d.run("--cgroupns", "host", "--cgroup-parent", d.parent, "busy", "cat", "/proc/self/cgroup")
    has(shared, d.parent)


@docker.row
def its_own_cgroup_is_mounted_read_only(d):
    look = "cat /sys/fs/cgroup/memory.max /sys/fs/cgroup/memory/memory.limit_in_bytes 2>/dev/null; mkdir /sys/fs/cgroup/x"
    mounted = d.command.any("run", "--rm", "--memory", "64m", "busy", "sh", "-c", look)
    has(mounted.stdout, "67108864")
    has(mounted.stderr, "Read-only file system")


# --- rights ---------------------------------------------------------------------------------------------------


@docker.row
def device_is_there_and_no_other(d):
    same(d.run("--device", "/dev/null:/dev/mine:r", "busy", "sh", "-c", "test -c /dev/mine && echo yes"), "yes")
    kernel_log = ("--cap-add", "SYSLOG", "busy", "sh", "-c", "mknod /dev/k c 1 11 && head -c 0 /dev/k")
    d.run(*kernel_log, status=1)
    d.run("--device-cgroup-rule", "c 1:11 rmw", *kernel_log)


@docker.row
def cap_add_and_cap_drop(d):
    same(d.run("--cap-drop", "ALL", "--cap-add", "CHOWN", "busy", "grep", "CapEff", "/proc/self/status").split()[1], "0" * 15 + "1")
    d.run("--cap-drop", "CHOWN", "busy", "chown", "1000", "/tmp", status=1)


@docker.row
def a_seccomp_profile_is_in_force(d):
    profile = {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO"}]}
    path = d.place.file("docker/seccomp.json", json.dumps(profile))
    d.run("--security-opt", f"seccomp={path}", "busy", "mkdir", "/x", status=1)
    d.run("--security-opt", "seccomp=unconfined", "busy", "mkdir", "/x")
    same(d.run("busy", "grep", "Seccomp:", "/proc/self/status").split()[1], "2", "default filter")
    d.run("busy", "unshare", "-U", "true", status=1)


@docker.row
def no_new_privileges_are_given(d):
    same(d.run("--security-opt", "no-new-privileges", "busy", "grep", "NoNewPrivs", "/proc/self/status").split()[1], "1")


@docker.row
def an_apparmor_profile_confines_it(d):
    needs_apparmor()
    has(d.run("busy", "cat", "/proc/self/attr/current"), "docker-default (enforce)")
    has(d.run("--security-opt", "apparmor=unconfined", "busy", "cat", "/proc/self/attr/current"), "unconfined")
    with d.container() as name:
        has(d("exec", name, "cat", "/proc/self/attr/current"), "docker-default (enforce)")


@docker.row
def privileged_may_do_what_others_may_not(d):
    has(d.command.any("run", "--rm", "busy", "mount", "-t", "tmpfs", "none", "/tmp").stderr, "denied")
    d.run("--privileged", "busy", "sh", "-c", "mount -t tmpfs none /tmp && mknod /tmp/k c 1 11 && head -c 0 /tmp/k && test -w /proc/sys/kernel/hostname")


@docker.row
def init_reaps_for_it(d):
    need("docker-init", "tini")
    has(d.run("--init", "busy", "cat", "/proc/1/cmdline"), "docker-init")


@docker.row
def a_read_only_root_with_a_tmpfs(d):
    d.run("--read-only", "busy", "touch", "/x", status=1)
    has(d.run("--read-only", "--tmpfs", "/tmp:size=1m,mode=700", "busy", "sh", "-c", "touch /tmp/x && mount | grep /tmp"), "size=1024k")


@docker.row
def sysctls_are_set_in_its_namespaces(d):
    same(d.run("--sysctl", "net.ipv4.ip_forward=0", "--sysctl", "kernel.msgmax=4096", "busy", "cat", "/proc/sys/net/ipv4/ip_forward", "/proc/sys/kernel/msgmax"), "0\n4096")


@docker.row
def user_groups_and_oom_score(d):
    same(d.run("--user", "1000", "--group-add", "3000", "busy", "id", "-G"), "1000 2000 3000")
    same(d.run("--oom-score-adj", "500", "busy", "cat", "/proc/self/oom_score_adj"), "500")


@docker.row
def masked_and_read_only_paths(d):
    d.run("busy", "sh", "-c", "! test -s /proc/kcore && ! touch /proc/sys/kernel/hostname && test -z \"$(ls /proc/acpi 2>/dev/null)\"")


# --- namespaces ---------------------------------------------------------------------------------------------


def namespace(d, kind, *options):
    return d.run(*options, "busy", "readlink", f"/proc/self/ns/{kind}")


@docker.row
def pid_container_and_pid_host(d):
    with d.container() as name:
        has(d.run("--pid", f"container:{name}", "busy", "ps"), "sleep 1000")
        same(namespace(d, "pid", "--pid", "host"), os.readlink("/proc/self/ns/pid"))


@docker.row
def stop_ends_every_process_of_a_container_in_the_hosts_pid_namespace(d):
    command = ("sh", "-c", "sleep 987654 & sleep 987655")
    with d.container("--pid", "host", command=command) as name:
        d("kill", name)
        d.settles(name, ".State.Status", "exited")
        eventually(lambda: lacks(d.run("--pid", "host", "busy", "ps"), "sleep 98765"), 10)


@docker.row
def network_container_host_and_none(d):
    with d.container("--network", "none") as name:
        same(namespace(d, "net", "--network", f"container:{name}"), os.readlink(f"/proc/{d.pid(name)}/ns/net"))
        same(d("exec", name, "ls", "/sys/class/net"), "lo")
    same(namespace(d, "net", "--network", "host"), os.readlink("/proc/self/ns/net"))


@docker.row
def ipc_and_uts_are_shared_as_told(d):
    with d.container("--ipc", "shareable", "--network", "none") as name:
        same(namespace(d, "ipc", "--ipc", f"container:{name}"), os.readlink(f"/proc/{d.pid(name)}/ns/ipc"))
        d("exec", name, "touch", "/dev/shm/shared")
        d.run("--ipc", f"container:{name}", "busy", "test", "-f", "/dev/shm/shared")
    same(namespace(d, "ipc", "--ipc", "host"), os.readlink("/proc/self/ns/ipc"))
    same(namespace(d, "uts", "--uts", "host"), os.readlink("/proc/self/ns/uts"))
    has(d.run("--shm-size", "8m", "busy", "df", "/dev/shm"), "8192")


@docker.row
def a_daemon_with_userns_remap_and_userns_host(d):
    """A second daemon on the same containerd, whose containers are in user namespaces."""
    first = subordinate_ids()
    settings = {"userns-remap": USER, "bridge": "none", "iptables": False}
    remapped = Docker(d.place, "remapped", d.settings["containerd"], **settings)
    # A daemon without a bridge removes docker0, so it does that elsewhere.
    with remapped.served(prefix=["unshare", "--net"]):
        load(remapped)
        has(remapped.run("busy", "cat", "/proc/self/uid_map"), str(first))
        with remapped.container() as name:
            same(os.stat(f"/proc/{remapped.pid(name)}").st_uid, first, "its owner on the host")
            same(remapped("exec", name, "id", "-u"), "0")
        same(namespace(remapped, "user", "--userns", "host"), os.readlink("/proc/self/ns/user"))


# --- networks and files -----------------------------------------------------------------------------------


@docker.row
def a_published_port_answers_over_the_bridge(d):
    needs_iptables()
    with d.container("--publish", "8080:80", command=("sh", "-c", "mkdir /w; echo served > /w/index.html; httpd -f -p 80 -h /w")) as name:
        address = d.inspect(name, ".NetworkSettings.IPAddress")
        client = Command(["busybox", "wget", "-q", "-O", "-"])
        eventually(lambda: same(client(f"http://{address}/"), "served"))
        # What comes from beside the host goes through the table.
        with peer() as prefix:
            look = "import urllib.request as r; print(r.urlopen('http://10.214.0.1:8080/', timeout=20).read().decode())"
            same(Command([*prefix, "/usr/bin/python3", "-c"])(look), "served")


@contextlib.contextmanager
def peer():
    """A network namespace beside this one, at 10.214.0.2 where we are 10.214.0.1. Yields a command's prefix."""
    ip = Command(["ip"])
    ip("netns", "add", "peer")
    try:
        ip("link", "add", "topeer", "type", "veth", "peer", "name", "eth0", "netns", "peer")
        ip("addr", "add", "10.214.0.1/24", "dev", "topeer")
        ip("link", "set", "topeer", "up")
        ip("-n", "peer", "addr", "add", "10.214.0.2/24", "dev", "eth0")
        ip("-n", "peer", "link", "set", "eth0", "up")
        yield ["ip", "netns", "exec", "peer"]
    finally:
        ip("netns", "delete", "peer")


@docker.row
def containers_of_one_network_find_each_other_by_name(d):
    needs_iptables()
    d("network", "create", "ours")
    try:
        with d.container("--network", "ours", name="server"):
            d.run("--network", "ours", "busy", "ping", "-c", "1", "server")
    finally:
        d("network", "rm", "ours")


@docker.row
def names_hosts_and_variables_are_set(d):
    text = d.run("--hostname", "me", "--add-host", "you:1.2.3.4", "--dns", "9.9.9.9", "--env", "A=b", "--workdir", "/made", "--entrypoint", "sh", "busy", "-c", "hostname; grep you /etc/hosts; echo $A; pwd")
    same(text, "me\n1.2.3.4\tyou\nb\n/made")


@docker.row
def volumes_are_mounted(d):
    source = d.place.directory("docker", "source")
    d("volume", "create", "kept")
    try:
        d.run("--volume", "kept:/data", "busy", "sh", "-c", "echo kept > /data/file")
        same(d.run("--volume", "kept:/data:ro", "busy", "cat", "/data/file"), "kept")
        d.run("--volume", "kept:/data:ro", "busy", "touch", "/data/x", status=1)
    finally:
        d("volume", "rm", "kept")
    d.run("--volume", f"{source}:/source", "busy", "touch", "/source/made")
    true(os.path.exists(f"{source}/made"), "the bind mount is another directory")
    d.run("--mount", "type=tmpfs,destination=/t,tmpfs-size=1m", "busy", "touch", "/t/x")
    d.run("--volume", f"{source}/made:/etc/one-file", "busy", "test", "-f", "/etc/one-file")


@docker.row
def a_volume_can_propagate_mounts(d):
    source = d.place.directory("docker", "shared")
    mount = Command(["mount"])
    mount("--bind", source, source)
    mount("--make-shared", source)
    try:
        d.run("--privileged", "--volume", f"{source}:/s:shared", "busy", "sh", "-c", "mkdir -p /s/in && mount -t tmpfs inner /s/in")
        has(read("/proc/self/mounts"), f"inner {source}/in")
        Command(["umount"])(f"{source}/in")
        with d.container("--volume", f"{source}:/s:rslave") as name:
            mount("-t", "tmpfs", "outer", f"{source}/in")
            has(d("exec", name, "cat", "/proc/mounts"), "outer /s/in")
            Command(["umount"])(f"{source}/in")
    finally:
        Command(["umount"]).any("--lazy", "--recursive", source)


@docker.row
def what_a_container_changes_is_not_in_its_image(d):
    with d.container() as name:
        d("exec", name, "sh", "-c", "echo changed > /etc/passwd; echo new > /new; rm /etc/group")
        same(sorted(d("diff", name).splitlines()), ["A /new", "C /etc", "C /etc/passwd", "D /etc/group"])
        same(d.run("busy", "sh", "-c", "test -e /new || head -n 1 /etc/passwd"), "root:x:0:0:root:/root:/bin/sh")


@docker.row
def commit_makes_an_image_that_runs(d):
    with d.container() as name:
        d("exec", name, "sh", "-c", "echo new > /new")
        d("commit", "--change", 'CMD ["cat", "/new"]', name, "committed")
        same(d.run("committed"), "new")


@docker.row
def cp_brings_files_in_and_out(d):
    with d.container() as name:
        d("cp", d.place.file("docker/brought", "words"), f"{name}:/brought")
        same(d("exec", name, "cat", "/brought"), "words")
        d("cp", f"{name}:/brought", f"{d.directory}/taken")
        same(read(f"{d.directory}/taken"), "words")


@docker.row
def build_runs_its_steps_and_keeps_what_they_made(d):
    d.place.file("docker/context/Dockerfile", """FROM busy
RUN echo built > /built && id -u > /uid && test -w /dev/null && cat /proc/self/status | grep Seccomp: > /seccomp
USER guest
WORKDIR /home/guest
RUN id -u > /tmp/uid
COPY Dockerfile /copied
CMD cat /built /uid /tmp/uid
""")
    builder = {**d.command.env, "DOCKER_BUILDKIT": "0"}
    Command(d.command.words, builder)("build", "--tag", "built", f"{d.directory}/context", seconds=120)
    same(d.run("built"), "built\n0\n1000")


@docker.row
def a_debian_builds_installs_and_runs(d):
    d("import", d.place.debian, "debian", seconds=180)
    d.place.file("docker/debian/Dockerfile", """FROM debian
RUN useradd --create-home --shell /bin/bash someone
RUN mkdir -p /made/DEBIAN && printf '%s\\n' 'Package: made' 'Version: 1' 'Architecture: all' 'Maintainer: me' 'Description: made' > /made/DEBIAN/control \\
    && dpkg-deb --build /made /tmp && apt-get install --yes /tmp/made_1_all.deb
""")
    builder = {**d.command.env, "DOCKER_BUILDKIT": "0"}
    Command(d.command.words, builder)("build", "--tag", "debian-made", f"{d.directory}/debian", seconds=180)
    same(d.run("debian-made", "dpkg-query", "--show", "made"), "made\t1")
    same(d.run("debian-made", "su", "--login", "someone", "--command", "id --user --name; pwd; echo $BASH"), "someone\n/home/someone\n/bin/bash")
    d("rmi", "--force", "debian-made", "debian")


@docker.row
def a_build_step_that_fails_is_named(d):
    d.place.file("docker/broken/Dockerfile", "FROM busy\nRUN exit 3\n")
    broken = Command(d.command.words, {**d.command.env, "DOCKER_BUILDKIT": "0"}).any("build", "--force-rm", f"{d.directory}/broken")
    true(broken.returncode != 0, "it succeeded")
    has(broken.stderr, "returned a non-zero code: 3")


@docker.row
def buildkit_builds_with_it(d):
    if d.command.any("buildx", "version").returncode and not d("version", "--format", "{{.Client.Version}}").startswith("20."):
        raise Skip("docker-buildx is not installed")
    context = d.place.directory("docker", "buildkit")
    d.place.file("docker/buildkit/Dockerfile", "FROM busy\nRUN echo built > /built && id -u >> /built\n")
    client = Command(d.command.words, {**d.command.env, "DOCKER_BUILDKIT": "1"})
    client("build", "--network", "none", "--tag", "kit", context, seconds=180)
    same(d.run("kit", "cat", "/built"), "built\n0")


# --- errors -------------------------------------------------------------------------------------------------


@docker.row
def run_says_125_126_and_127_and_why(d):
    has(d.command.error("run", "--rm", "busy", "no-such-program", status=127), "executable file not found in $PATH")
    has(d.command.error("run", "--rm", "busy", "/no/such/program", status=127), "no such file or directory")
    has(d.command.error("run", "--rm", "busy", "/etc/passwd", status=126), "permission denied")
    d.command.error("run", "--rm", "busy", "/etc", status=126)
    d.command.error("run", "--rm", "--no-such-option", "busy", status=125)


@docker.row
def what_fails_leaves_nothing(d):
    d.command.any("run", "--rm", "busy", "no-such-program")
    d.command.any("run", "--rm", "--sysctl", "net.no.such=1", "busy", "true")
    same(d("ps", "--all", "--quiet"), "", "containers")
    rooms = f"{d.directory}/exec/runtime-runc/{d.name}"
    same(os.listdir(rooms) if os.path.isdir(rooms) else [], [], "containers that the runtime remembers")
