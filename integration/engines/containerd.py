"""containerd: tasks by `ctr run --runc-binary`, through containerd-shim-runc-v2."""

import contextlib
import json
import os
import re
import time

from place import group_file, need, needs_criu, needs_mounted_hierarchies, needs_systemd, read, unified
from table import Command, Engine, daemon, eventually, has, same, true
from wire import Service, messages

SHIM = "io.containerd.runc.v2"
# See wire.py; the numbers are those of containerd's api/services/tasks/v1/tasks.proto.
TASKS = """
UpdateRequest   container_id=1 resources=2:Any
UpdateResponse
Any             type_url=1 value=2
"""


@contextlib.contextmanager
def serve(place, name, cri=""):
    """A containerd with directories of its own; yields its socket and what starts another on the same state. It serves
    pods when it gets settings for them."""
    need("containerd-shim-runc-v2", "containerd")
    socket = place.directory(name) + "/socket"
    config = place.file(
        f"{name}/config.toml",
        f"""version = 2
root = "{place.directory(name, 'root')}"
state = "{place.directory(name, 'state')}"
disabled_plugins = {[] if cri else ["io.containerd.grpc.v1.cri"]}
[grpc]
address = "{socket}"
{cri}
""",
    )
    ctr = Command(["ctr", "--address", socket])

    def again():
        log = f"{place.work}/{name}/log"
        return daemon(["containerd", "--config", config], log, lambda: ctr("version"))

    yield socket, again


class Containerd:
    def __init__(self, place, socket, daemons):
        self.ctr = Command(["ctr", "--address", socket])
        self.place, self.runtime, self.socket, self.daemons = place, place.runtime, socket, daemons
        self.run_words = ["--runtime", SHIM, "--runc-binary", self.runtime, "--snapshotter", "native"]

    def run(self, *words, **more):
        return self.ctr("run", *self.run_words, *words, **more)

    @contextlib.contextmanager
    def task(self, name, *words, options=()):
        self.run("--detach", *options, "busy", name, *(words or ("sleep", "1000")))
        try:
            yield name
        finally:
            self.ctr.any("task", "kill", "--signal", "SIGKILL", name)
            self.ctr.any("task", "delete", "--force", name)
            self.ctr.any("container", "delete", name)

    def tasks(self):
        lines = self.ctr("task", "list").splitlines()[1:]
        return {each[0]: (int(each[1]), each[2]) for each in map(str.split, lines)}

    def update(self, name, resources):
        """What ctr has no word for."""
        kind = "types.containerd.io/opencontainers/runtime-spec/1/LinuxResources"
        path = self.place.directory("containerd") + "/update"
        namespace = ["containerd-namespace: default"]
        tasks = Service(self.socket, "containerd.services.tasks.v1.Tasks", path, messages(TASKS), namespace)
        tasks("Update", container_id=name, resources={"type_url": kind, "value": json.dumps(resources)})

    def is_in(self, name, status):
        def check():
            same(self.tasks().get(name, (0, "gone"))[1], status, f"status of {name}")

        eventually(check)


@contextlib.contextmanager
def start(place):
    with serve(place, "containerd") as (socket, again), contextlib.ExitStack() as daemons:
        daemons.enter_context(again())
        engine = Containerd(place, socket, daemons)
        engine.again = again
        image = place.image()
        engine.ctr("image", "import", "--snapshotter", "native", image, seconds=120)
        yield engine


containerd = Engine("containerd", start)


@containerd.row
def a_task_prints_and_its_container_is_removed(c):
    same(c.run("--rm", "busy", "hello", "echo", "hello"), "hello")
    same(c.ctr("container", "list", "--quiet"), "", "list of containers")


@containerd.row
def the_exit_status_is_that_of_the_process(c):
    c.run("--rm", "busy", "seven", "sh", "-c", "exit 7", status=7)


@containerd.row
def a_program_that_is_missing_is_named(c):
    has(c.ctr.error("run", *c.run_words, "--rm", "busy", "absent", "no-such-program", status=1), "no-such-program")
    c.ctr.any("container", "delete", "absent")


@containerd.row
def a_terminal_is_one_inside_and_can_be_resized(c):
    with c.ctr.terminal("run", *c.run_words, "--rm", "--tty", "busy", "tty", "sh", size=(31, 97)) as terminal:
        terminal.send("tty\n")
        terminal.expect("/dev/pts/0")
        terminal.shows_its_size(31, 97)
        terminal.follows(40, 120)
        terminal.send("exit 5\n")
        terminal.ends(5)


@containerd.row
def a_detached_task_runs_until_it_is_killed_and_deleted(c):
    with c.task("detached"):
        same(c.tasks()["detached"][1], "RUNNING", "status")
        c.ctr("task", "kill", "--signal", "SIGKILL", "detached")
        c.is_in("detached", "STOPPED")
        has(c.ctr.any("task", "delete", "detached").stderr, "137")


@containerd.row
def exec_runs_another_process(c):
    with c.task("host"):
        has(c.ctr("task", "exec", "--exec-id", "one", "host", "ps"), "sleep 1000")
        c.ctr("task", "exec", "--exec-id", "two", "host", "sh", "-c", "exit 9", status=9)
        with c.ctr.terminal("task", "exec", "--tty", "--exec-id", "three", "host", "sh") as terminal:
            terminal.send("test -t 0 && echo is-a-$((1+1))-terminal\n")
            terminal.expect("is-a-2-terminal")
            terminal.send("exit\n")
            terminal.ends(0)


@containerd.row
def pause_holds_a_task_and_resume_lets_it_go(c):
    with c.task("held"):
        c.ctr("task", "pause", "held")
        same(c.tasks()["held"][1], "PAUSED", "status")
        c.ctr("task", "resume", "held")
        same(c.tasks()["held"][1], "RUNNING", "status")


@containerd.row
def a_paused_task_can_be_killed(c):
    with c.task("frozen"):
        c.ctr("task", "pause", "frozen")
        c.ctr("task", "kill", "--signal", "SIGKILL", "frozen")
        c.ctr.any("task", "resume", "frozen")
        c.is_in("frozen", "STOPPED")


@containerd.row
def a_memory_limit_is_in_force(c):
    with c.task("limited", options=["--memory-limit", str(64 << 20)]):
        pid = c.tasks()["limited"][0]
        name = "memory.max" if unified() else "memory.limit_in_bytes"
        same(group_file(pid, "memory", name), str(64 << 20), name)


@containerd.row
def update_changes_limits(c):
    with c.task("updated", options=["--memory-limit", str(64 << 20)]):
        resources = {"memory": {"limit": 96 << 20}, "cpu": {"quota": 25000, "period": 100000}, "pids": {"limit": 77}}
        c.update("updated", resources)
        pid = c.tasks()["updated"][0]
        same(group_file(pid, "memory", "memory.max" if unified() else "memory.limit_in_bytes"), str(96 << 20))
        same(group_file(pid, "cpu", "cpu.max" if unified() else "cpu.cfs_quota_us").split()[0], "25000")
        same(group_file(pid, "pids", "pids.max"), "77")


@containerd.row
def a_scope_of_systemds_is_its_group(c):
    needs_systemd()
    with c.task("scoped", options=["--runc-systemd-cgroup", "--cgroup", "system.slice:ctr:scoped", "--memory-limit", str(64 << 20)]):
        pid = c.tasks()["scoped"][0]
        has(read(f"/proc/{pid}/cgroup"), "/system.slice/ctr-scoped.scope")
        same(group_file(pid, "memory", "memory.max"), str(64 << 20), "memory.max")
        same(Command(["systemctl"])("show", "--property=MemoryMax", "ctr-scoped.scope"), f"MemoryMax={64 << 20}")
    eventually(lambda: same(Command(["systemctl"]).any("is-active", "ctr-scoped.scope").stdout.strip(), "inactive", "the scope"))


@containerd.row
def metrics_are_those_of_the_container(c):
    needs_mounted_hierarchies()
    with c.task("measured"):
        metrics = c.ctr("task", "metrics", "measured")
        has(metrics, "memory.usage" if unified() else "memory.usage_in_bytes")
        has(metrics, "pids.current")


@containerd.row
def ps_lists_every_process_of_a_task(c):
    with c.task("family", "sh", "-c", "sleep 1000 & sleep 1000"):

        def both():
            same(len(re.findall(r"^\d+", c.ctr("task", "ps", "family"), re.M)), 2, "number of processes")

        eventually(both)


@containerd.row
def twenty_tasks_live_at_once(c):
    with contextlib.ExitStack() as stack:
        names = [stack.enter_context(c.task(f"many-{i}")) for i in range(20)]
        tasks = c.tasks()
        same({tasks[name][1] for name in names}, {"RUNNING"}, "statuses")


@containerd.row
def a_task_outlives_its_daemon_and_obeys_the_next_one(c):
    with c.task("survivor"):
        pid = c.tasks()["survivor"][0]
        c.daemons.close()
        true(os.path.exists(f"/proc/{pid}"), "it died with the daemon")
        c.daemons.enter_context(c.again())
        same(c.tasks()["survivor"], (pid, "RUNNING"), "the task")
        same(c.ctr("task", "exec", "--exec-id", "late", "survivor", "echo", "here"), "here")
        c.ctr("task", "kill", "--signal", "SIGKILL", "survivor")
        c.is_in("survivor", "STOPPED")


@containerd.row
def a_checkpoint_of_a_task_goes_on_where_it_was(c):
    needs_criu()
    # Its output would be a pipe of the shim's, which no other shim has.
    with c.task("counter", "sh", "-c", "exec >/dev/null 2>&1 </dev/null; i=0; while echo $((i=i+1)) > /count; do sleep 0.1; done"):
        count = lambda name: int(c.ctr("task", "exec", "--exec-id", f"look-{time.monotonic()}", name, "cat", "/count") or 0)
        eventually(lambda: true(count("counter") > 3, "it does not count"))
        c.ctr("container", "checkpoint", "--image", "--rw", "--task", "counter", "counted", seconds=120)
        before = count("counter")
    c.ctr("container", "restore", "--rw", "--live", "again", "counted", seconds=120)
    try:
        eventually(lambda: true(count("again") > before, "it does not go on"))
    finally:
        c.ctr.any("task", "kill", "--signal", "SIGKILL", "again")
        c.ctr.any("task", "delete", "--force", "again")
        c.ctr.any("container", "delete", "again")


@containerd.row
def a_host_network_and_a_bind_mount_are_as_configured(c):
    mount = "type=bind,src=/etc,dst=/mnt,options=rbind:ro"
    has(c.run("--rm", "--net-host", "--mount", mount, "busy", "bound", "cat", "/mnt/hostname"), "")
    c.run("--rm", "--mount", mount, "busy", "readonly", "touch", "/mnt/x", status=1)


@containerd.row
def capabilities_privilege_and_a_read_only_root_are_as_configured(c):
    c.run("--rm", "--read-only", "busy", "locked", "touch", "/x", status=1)
    c.run("--rm", "--privileged", "busy", "strong", "mount", "-t", "tmpfs", "none", "/tmp")
    has(c.ctr.any("run", *c.run_words, "--rm", "busy", "weak", "mount", "-t", "tmpfs", "none", "/tmp").stderr, "denied")


@containerd.row
def seccomp_filters_what_is_not_allowed(c):
    c.run("--rm", "--seccomp", "busy", "filtered", "unshare", "-U", "true", status=1)
    c.run("--rm", "busy", "unfiltered", "unshare", "-U", "true")


