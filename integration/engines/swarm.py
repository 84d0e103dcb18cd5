"""Docker Swarm: two dockerds in network namespaces that a bridge joins, scheduling services on corten."""

import contextlib

import containerd as lower
from docker import Docker, load
from place import need, needs_iptables
from table import Command, Engine, eventually, same, true

ADDRESSES = {"one": "10.215.0.1", "two": "10.215.0.2"}


class Swarm:
    def __init__(self, nodes):
        self.nodes, self.manager = nodes, nodes["one"]

    def tasks(self, service, wanted="Running"):
        """Nodes of the tasks that are in a state."""
        lines = self.manager("service", "ps", "--format", "{{.CurrentState}} {{.Node}}", service).splitlines()
        return [line.split()[-1] for line in lines if line.startswith(wanted)]

    def runs(self, service, count, seconds=120):
        eventually(lambda: same(len(self.tasks(service)), count, "tasks that run"), seconds, pause=1)


@contextlib.contextmanager
def network():
    """Two network namespaces on a bridge."""
    ip = Command(["ip"])
    with contextlib.ExitStack() as stack:
        ip("link", "add", "swarm", "type", "bridge")
        stack.callback(ip, "link", "delete", "swarm")
        ip("link", "set", "swarm", "up")
        # A dockerd that was here before has frames on bridges filtered too, and forwards nothing that is not its own.
        Command(["iptables"])("--policy", "FORWARD", "ACCEPT")
        for name, address in ADDRESSES.items():
            ip("netns", "add", name)
            stack.callback(ip, "netns", "delete", name)
            ip("link", "add", f"to-{name}", "type", "veth", "peer", "name", "eth0", "netns", name)
            ip("link", "set", f"to-{name}", "master", "swarm", "up")
            ip("-n", name, "addr", "add", f"{address}/24", "dev", "eth0")
            ip("-n", name, "link", "set", "eth0", "up")
            ip("-n", name, "link", "set", "lo", "up")
            # dockerd wants to know how the world is reached.
            ip("-n", name, "route", "add", "default", "via", "10.215.0.254", "onlink", "dev", "eth0")
        yield


@contextlib.contextmanager
def start(place):
    need("dockerd", "docker.io")
    needs_iptables()
    with contextlib.ExitStack() as stack:
        stack.enter_context(network())
        nodes = {}
        for name in ADDRESSES:
            socket, again = stack.enter_context(lower.serve(place, f"swarm-{name}-containerd"))
            stack.enter_context(again())
            nodes[name] = Docker(place, f"swarm-{name}", socket)
            # Not by ip, which would mount a sysfs without control groups.
            prefix = ["nsenter", f"--net=/run/netns/{name}", "unshare", "--uts"]
            prefix += ["sh", "-c", f'hostname {name}; exec "$@"', "sh"]
            stack.enter_context(nodes[name].served(prefix))
            load(nodes[name])
        swarm = Swarm(nodes)
        nodes["one"]("swarm", "init", "--advertise-addr", ADDRESSES["one"], "--task-history-limit", "1")
        token = nodes["one"]("swarm", "join-token", "--quiet", "worker")
        nodes["two"]("swarm", "join", "--advertise-addr", ADDRESSES["two"], "--token", token, f"{ADDRESSES['one']}:2377")
        yield swarm
        for node in reversed(nodes.values()):
            node.command.any("swarm", "leave", "--force")


engine = Engine("swarm", start)


@engine.row
def two_nodes_are_ready(s):
    def ready():
        same(s.manager("node", "ls", "--format", "{{.Status}}").split(), ["Ready", "Ready"], "nodes")

    eventually(ready)


@engine.row
def a_replicated_service_runs_on_both_nodes(s):
    words = ("--detach", "--name", "web", "--replicas", "4", "--no-resolve-image", "--network", "host")
    s.manager("service", "create", *words, "--stop-grace-period", "1s", "busy", "sleep", "1000")
    s.runs("web", 4)
    same(sorted(set(s.tasks("web"))), ["one", "two"], "nodes that run it")


@engine.row
def it_scales_to_twenty_and_back(s):
    s.manager("service", "scale", "--detach", "web=20")
    s.runs("web", 20)
    s.manager("service", "scale", "--detach", "web=4")
    s.runs("web", 4)


@engine.row
def a_rolling_update_replaces_every_task(s):
    before = set(s.manager("service", "ps", "--quiet", "--filter", "desired-state=running", "web").split())
    words = ("--detach", "--update-parallelism", "2", "--update-delay", "0s", "--env-add", "NEW=1", "--no-resolve-image")
    s.manager("service", "update", *words, "web")

    def completed():
        same(s.manager("service", "inspect", "--format", "{{.UpdateStatus.State}}", "web"), "completed", "update")

    eventually(completed, 120, pause=1)
    s.runs("web", 4)
    after = set(s.manager("service", "ps", "--quiet", "--filter", "desired-state=running", "web").split())
    true(not before & after, "some tasks are the old ones")


@engine.row
def a_task_that_dies_is_replaced(s):
    node = s.nodes["two"]
    victim = node("ps", "--quiet").split()[0]
    node("kill", victim)
    eventually(lambda: true(victim not in node("ps", "--quiet"), "it lives"), 10)
    s.runs("web", 4)


@engine.row
def a_drained_node_has_no_tasks(s):
    s.manager("node", "update", "--availability", "drain", "two")
    eventually(lambda: same(s.tasks("web"), ["one"] * 4, "nodes of the tasks"), 120, pause=1)
    eventually(lambda: same(s.nodes["two"]("ps", "--quiet"), "", "containers on the drained node"), 60)
    s.manager("node", "update", "--availability", "active", "two")


@engine.row
def a_service_that_is_removed_leaves_nothing(s):
    s.manager("service", "rm", "web")
    for node in s.nodes.values():
        eventually(lambda: same(node("ps", "--quiet"), "", "containers"), 60)
