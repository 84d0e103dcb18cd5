"""Pods, through containerd's CRI, as a kubelet makes them for a RuntimeClass whose handler is corten."""

import contextlib
import json
import os
import re
import time

import containerd as lower
from place import can_raise_limits, group_file, heard, needs_apparmor, needs_iptables, needs_mounted_hierarchies, read, unified
from table import Command, Engine, Failed, Skip, eventually, has, lacks, same, true
from wire import Refused, Service, Stream, messages

# See wire.py; the numbers are those of Kubernetes' pkg/apis/runtime/v1/api.proto.
CALLS = """
VersionRequest                   version=1
VersionResponse                  runtime_name=2 runtime_version=3
StatusRequest                    verbose=1:int
StatusResponse                   status=1:RuntimeStatus
RuntimeStatus                    conditions=1:RuntimeCondition*
RuntimeCondition                 type=1 status=2:int reason=3 message=4

RunPodSandboxRequest             config=1:PodSandboxConfig runtime_handler=2
RunPodSandboxResponse            pod_sandbox_id=1
PodSandboxConfig                 metadata=1:Metadata hostname=2 log_directory=3 port_mappings=5:PortMapping*
                                 linux=8:LinuxSandbox
Metadata                         name=1 uid=2 namespace=3 attempt=4:int
PortMapping                      protocol=1:int container_port=2:int host_port=3:int
LinuxSandbox                     cgroup_parent=1 security_context=2:SandboxSecurity sysctls=3:map
SandboxSecurity                  namespace_options=1:Namespaces privileged=6:int seccomp=9:Profile
Namespaces                       network=1:int pid=2:int ipc=3:int target_id=4 userns_options=5:UserNamespace
UserNamespace                    mode=1:int uids=2:IdMapping* gids=3:IdMapping*
IdMapping                        host_id=1:int container_id=2:int length=3:int
Profile                          profile_type=1:int localhost_ref=2
StopPodSandboxRequest            pod_sandbox_id=1
StopPodSandboxResponse
RemovePodSandboxRequest          pod_sandbox_id=1
RemovePodSandboxResponse
PodSandboxStatusRequest          pod_sandbox_id=1 verbose=2:int
PodSandboxStatusResponse         status=1:PodSandboxStatus info=2:map
PodSandboxStatus                 id=1 state=3:int network=5:Network runtime_handler=9
Network                          ip=1
ListPodSandboxRequest
ListPodSandboxResponse           items=1:PodSandbox*
PodSandbox                       id=1 state=3:int runtime_handler=7
PodSandboxStatsRequest           pod_sandbox_id=1
PodSandboxStatsResponse          stats=1:PodSandboxStats
PodSandboxStats                  linux=2:LinuxStats
LinuxStats                       cpu=1:Cpu memory=2:Memory process=4:Processes containers=5:ContainerStats*
Processes                        process_count=2:Number

CreateContainerRequest           pod_sandbox_id=1 config=2:ContainerConfig sandbox_config=3:PodSandboxConfig
CreateContainerResponse          container_id=1
ContainerConfig                  metadata=1:ContainerMetadata image=2:Image command=3* envs=6:Variable*
                                 mounts=7:Mount* devices=8:Device* log_path=11 stdin=12:int tty=14:int
                                 linux=15:LinuxContainer
ContainerMetadata                name=1 attempt=2:int
Image                            image=1
Variable                         key=1 value=2
Mount                            container_path=1 host_path=2 readonly=3:int propagation=5:int
Device                           container_path=1 host_path=2 permissions=3
LinuxContainer                   resources=1:Resources security_context=2:Security
Resources                        cpu_period=1:int cpu_quota=2:int cpu_shares=3:int memory_limit_in_bytes=4:int
                                 oom_score_adj=5:int cpuset_cpus=6 hugepage_limits=8:HugePages* unified=9:map
HugePages                        page_size=1 limit=2:int
Security                         capabilities=1:Capabilities privileged=2:int namespace_options=3:Namespaces
                                 run_as_user=5:Number readonly_rootfs=7:int supplemental_groups=8:int*
                                 no_new_privs=11:int run_as_group=12:Number masked_paths=13* readonly_paths=14*
                                 seccomp=15:Profile apparmor=16:Profile
Capabilities                     add_capabilities=1* drop_capabilities=2*
Number                           value=1:int
StartContainerRequest            container_id=1
StartContainerResponse
StopContainerRequest             container_id=1 timeout=2:int
StopContainerResponse
RemoveContainerRequest           container_id=1
RemoveContainerResponse
ListContainersRequest
ListContainersResponse           containers=1:Container*
Container                        id=1 pod_sandbox_id=2 state=6:int
ContainerStatusRequest           container_id=1 verbose=2:int
ContainerStatusResponse          status=1:ContainerStatus info=2:map
ContainerStatus                  id=1 state=3:int exit_code=7:int reason=10 message=11
UpdateContainerResourcesRequest  container_id=1 linux=2:Resources
UpdateContainerResourcesResponse
ReopenContainerLogRequest        container_id=1
ReopenContainerLogResponse
ExecSyncRequest                  container_id=1 cmd=2* timeout=3:int
ExecSyncResponse                 stdout=1 stderr=2 exit_code=3:int
ExecRequest                      container_id=1 cmd=2* tty=3:int stdin=4:int stdout=5:int stderr=6:int
ExecResponse                     url=1
AttachRequest                    container_id=1 stdin=2:int tty=3:int stdout=4:int stderr=5:int
AttachResponse                   url=1
ContainerStatsRequest            container_id=1
ContainerStatsResponse           stats=1:ContainerStats
ContainerStats                   cpu=2:Cpu memory=3:Memory
Cpu                              usage_core_nano_seconds=2:Number
Memory                           working_set_bytes=2:Number
"""

# Its enumerations.
POD, CONTAINER, NODE, TARGET = range(4)
CREATED, RUNNING, EXITED = range(3)
RUNTIME_DEFAULT, UNCONFINED, LOCALHOST = range(3)
PRIVATE, HOST_TO_CONTAINER, BIDIRECTIONAL = range(3)

SUBNET = "10.216.0"


class Cri:
    def __init__(self, place, socket, daemons, again):
        self.place, self.daemons, self.again = place, daemons, again
        self.call = Service(socket, "runtime.v1.RuntimeService", place.directory("cri") + "/call", messages(CALLS))
        self.pods = 0
        self.version = self.call("Version")["runtime_version"]

    @contextlib.contextmanager
    def pod(self, **settings):
        """A pod that runs, removed at the end."""
        self.pods += 1
        pod = Pod(self, f"{os.getpid()}{self.pods}", **settings)
        try:
            yield pod
        finally:
            pod.remove()


class Pod:
    """A sandbox. Without a wish, on the host's network, since that costs least."""

    def __init__(
        self, cri, uid, network=NODE, pid=CONTAINER, ipc=POD, users=None, handler="corten", privileged=0, linux=None, **config
    ):
        self.call, self.place = cri.call, cri.place
        self.namespaces = {"network": network, "pid": pid, "ipc": ipc, **({"userns_options": users} if users else {})}
        self.logs = self.place.directory("cri", "logs", uid)
        # Where a kubelet has its pods.
        systemd = os.environ.get("ENGINES_CGROUP_MANAGER") == "systemd"
        slices = f"/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{uid}.slice"
        self.group = slices if systemd else f"/kubepods/burstable/pod{uid}"
        self.config = {
            "metadata": {"name": f"pod-{uid}", "uid": uid, "namespace": "default"},
            "hostname": "" if network == NODE else f"pod-{uid}",
            "log_directory": self.logs,
            "linux": {
                "cgroup_parent": self.group,
                "security_context": {"namespace_options": self.namespaces, "privileged": privileged},
                **(linux or {}),
            },
            **config,
        }
        self.id = self.call("RunPodSandbox", config=self.config, runtime_handler=handler)["pod_sandbox_id"]

    def remove(self):
        self.call("StopPodSandbox", pod_sandbox_id=self.id)
        self.call("RemovePodSandbox", pod_sandbox_id=self.id)

    def status(self):
        return self.call("PodSandboxStatus", pod_sandbox_id=self.id, verbose=1)

    def pid(self):
        return json.loads(self.status()["info"]["info"])["pid"]

    def container(self, *command, start=True, **settings):
        """Makes a container, and starts it."""
        container = Container(self, command or ("sleep", "1000"), **settings)
        if start:
            self.call("StartContainer", container_id=container.id)
        return container

    def run(self, *command, status=0, **settings):
        """What a container printed, which ends with a status."""
        container = self.container(*command, **settings)
        try:
            container.ends(status)
            return container.printed()
        finally:
            self.call("RemoveContainer", container_id=container.id)
            os.remove(container.log)


class Container:
    def __init__(self, pod, command, name="it", attempt=0, resources=None, security=None, **config):
        self.call = pod.call
        self.log = f"{pod.logs}/{name}.log"
        config = {
            "metadata": {"name": name, "attempt": attempt},
            "image": {"image": "localhost/busy"},
            "command": command,
            "log_path": f"{name}.log",
            "linux": {
                "resources": resources or {},
                "security_context": {
                    "namespace_options": pod.namespaces,
                    "seccomp": {"profile_type": UNCONFINED},
                    **(security or {}),
                },
            },
            **config,
        }
        made = self.call("CreateContainer", pod_sandbox_id=pod.id, config=config, sandbox_config=pod.config)
        self.id = made["container_id"]

    def status(self):
        return self.call("ContainerStatus", container_id=self.id)["status"]

    def pid(self):
        return json.loads(self.call("ContainerStatus", container_id=self.id, verbose=1)["info"]["info"])["pid"]

    def ends(self, status, seconds=30):
        eventually(lambda: same(self.status()["state"], EXITED, "state of the container"), seconds)
        same(self.status()["exit_code"], status, f"status of the container, which printed {self.printed()!r}, ")

    def lines(self):
        """Its log: stream, tag and text of each line."""
        lines = read(self.log).splitlines() if os.path.exists(self.log) else []
        form = r"\d{4}-\d\d-\d\dT\S+ (stdout|stderr) ([FP]) (.*)"
        return [tuple(re.fullmatch(form, each).groups()) for each in lines]

    def printed(self):
        return "\n".join(text for _, _, text in self.lines())

    def prints(self, text):
        eventually(lambda: has(self.printed(), text))

    def exec(self, *words, status=0, timeout=60):
        done = self.call("ExecSync", container_id=self.id, cmd=words, timeout=timeout)
        said = f"{done['stdout']}{done['stderr']}".rstrip("\n")
        same(done["exit_code"], status, f"status of {' '.join(words)} ({said})")
        return said

    def stop(self, timeout):
        began = time.monotonic()
        self.call("StopContainer", container_id=self.id, timeout=timeout)
        return time.monotonic() - began

    def limit(self, controller, name):
        return group_file(self.pid(), controller, name)


@contextlib.contextmanager
def start(place):
    if not os.path.exists("/usr/lib/cni/bridge"):
        raise Skip("no CNI plugins are installed (package containernetworking-plugins)")
    addresses = {
        "type": "host-local",
        "subnet": f"{SUBNET}.0/24",
        "routes": [{"dst": "0.0.0.0/0"}],
        "dataDir": place.directory("cri", "addresses"),
    }
    bridge = {"type": "bridge", "bridge": "pods", "isGateway": True, "ipam": addresses}
    ports = {"type": "portmap", "capabilities": {"portMappings": True}}
    network = {"cniVersion": "0.4.0", "name": "pods", "plugins": [bridge, ports]}
    place.file("cri/net.d/pods.conflist", json.dumps(network))
    # Without CAP_SYS_RESOURCE a sandbox cannot be kept from the OOM killer as it is meant to be.
    settings = f"""
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "localhost/pause"
  disable_hugetlb_controller = false
  restrict_oom_score_adj = {str(not can_raise_limits()).lower()}
[plugins."io.containerd.grpc.v1.cri".cni]
  bin_dir = "/usr/lib/cni"
  conf_dir = "{place.work}/cri/net.d"
[plugins."io.containerd.grpc.v1.cri".containerd]
  snapshotter = "native"
  default_runtime_name = "corten"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.corten]
  runtime_type = "{lower.SHIM}"
  [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.corten.options]
    BinaryName = "{place.runtime}"
    SystemdCgroup = {str(os.environ.get("ENGINES_CGROUP_MANAGER") == "systemd").lower()}
"""
    with lower.serve(place, "cri", settings) as (socket, again), contextlib.ExitStack() as daemons:
        daemons.enter_context(again())
        ctr = Command(["ctr", "--address", socket, "--namespace", "k8s.io"])
        for name, command in (("pause", ("sleep", "1000000")), ("busy", ("sh",))):
            ctr("image", "import", "--snapshotter", "native", place.image(f"localhost/{name}", command), seconds=120)
            # As CRI looks for it.
            ctr("image", "tag", f"localhost/{name}", f"localhost/{name}:latest")
        try:
            cri = Cri(place, socket, daemons, again)
        except Refused as error:
            # A plugin that does not load is told nowhere else.
            lines = read(f"{place.work}/cri/log").splitlines()
            said = [line for line in lines if "grpc.v1.cri" in line and "error" in line]
            raise Failed("\n".join([str(error), *said])) from None
        yield cri
        for each in cri.call("ListPodSandbox")["items"]:
            cri.call("StopPodSandbox", pod_sandbox_id=each["id"])
            cri.call("RemovePodSandbox", pod_sandbox_id=each["id"])


cri = Engine("cri", start)


@cri.row
def the_runtime_is_ready_and_so_is_the_network(c):
    conditions = {each["type"]: each["status"] for each in c.call("Status")["status"]["conditions"]}
    same([conditions[name] for name in ("RuntimeReady", "NetworkReady")], [1, 1], "conditions")


@cri.row
def a_pod_runs_on_the_hosts_network(c):
    with c.pod() as pod:
        same(pod.status()["status"]["state"], 0, "state of the sandbox")
        same(pod.status()["status"]["runtime_handler"], "corten", "handler")
        same(namespace(pod, "net"), os.readlink("/proc/self/ns/net"), "network namespace")
        same(pod.run("echo", "hello"), "hello")
        pod.run("sh", "-c", "exit 7", status=7)


@cri.row
def a_handler_that_does_not_exist_is_refused(c):
    with refused("nobody"), c.pod(handler="nobody"):
        pass


@cri.row
def a_pod_has_an_address_of_the_bridge(c):
    with c.pod(network=POD) as server, c.pod(network=POD) as client:
        address = server.status()["status"]["network"]["ip"]
        true(address.startswith(SUBNET), f"the address is {address!r}")
        server.container("httpd", "-f", "-p", "80", "-h", "/etc", name="web")
        ask = f"printf 'GET /hostname HTTP/1.0\\r\\n\\r\\n' | nc -w 5 {address} 80"
        eventually(lambda: has(client.run("sh", "-c", ask), server.config["hostname"]))
        has(client.run("ip", "addr", "show", "lo"), "127.0.0.1")


@cri.row
def a_port_of_the_host_leads_to_a_pod(c):
    needs_iptables()
    ports = [{"container_port": 80, "host_port": 18080}]
    with c.pod(network=POD, port_mappings=ports) as pod:
        pod.container("httpd", "-f", "-p", "80", "-h", "/etc")
        curl = Command(["curl", "--silent", "--show-error", "--max-time", "5"])
        # By the bridge's address, since what goes to 127.0.0.1 would need more of the host.
        eventually(lambda: same(curl(f"http://{SUBNET}.1:18080/hostname"), pod.config["hostname"], "page"))


@cri.row
def containers_of_a_pod_share_network_ipc_and_hostname_only(c):
    with c.pod(network=POD) as pod:
        one, two = pod.container(name="one"), pod.container(name="two")
        for kind in ("net", "ipc", "uts"):
            same({namespace(each, kind) for each in (one, two)}, {namespace(pod, kind)}, kind)
        for kind in ("pid", "mnt"):
            same(len({namespace(each, kind) for each in (one, two, pod)}), 3, f"number of {kind} namespaces")
        same(one.exec("hostname"), pod.config["hostname"])
        one.exec("sh", "-c", "echo shared > /dev/shm/it")
        same(two.exec("cat", "/dev/shm/it"), "shared")
        one.exec("touch", "/of-one")
        two.exec("test", "-e", "/of-one", status=1)


@cri.row
def containers_of_a_pod_share_processes_when_asked(c):
    with c.pod(pid=POD) as pod:
        pod.container("sleep", "777", name="one")
        seen = pod.container(name="two").exec("ps", "-o", "pid,args")
        has(seen, "sleep 777")
        true(re.search(r"^ *1 sleep 1000000$", seen, re.M), f"the sandbox is not the first process in {seen}")


@cri.row
def a_debugging_container_joins_the_processes_of_another(c):
    with c.pod() as pod:
        one = pod.container("sleep", "777", name="one")
        joined = {"namespace_options": {**pod.namespaces, "pid": TARGET, "target_id": one.id}}
        two = pod.container(name="two", security=joined)
        same(namespace(two, "pid"), namespace(one, "pid"), "pid namespace")
        has(two.exec("ps"), "sleep 777")


@cri.row
def the_hosts_processes_and_ipc_are_seen_when_asked(c):
    with c.pod(pid=NODE, ipc=NODE) as pod:
        one = pod.container()
        for kind in ("pid", "ipc"):
            same(namespace(one, kind), os.readlink(f"/proc/self/ns/{kind}"), kind)
        has(one.exec("ps"), "containerd")


@cri.row
def exec_tells_output_and_status_and_ends_in_time(c):
    with c.pod() as pod:
        one = pod.container()
        done = c.call("ExecSync", container_id=one.id, cmd=["sh", "-c", "echo out; echo err >&2; exit 9"], timeout=60)
        same(done, {"stdout": "out\n", "stderr": "err\n", "exit_code": 9})
        with refused("timeout"):
            one.exec("sleep", "888", timeout=1)
        eventually(lambda: lacks(one.exec("ps"), "sleep 888"))
        with refused("no-such-program"):
            one.exec("no-such-program")


@cri.row
def exec_i_t_has_a_terminal_that_can_be_resized(c):
    with c.pod() as pod:
        one = pod.container()
        with Stream(c.call("Exec", container_id=one.id, cmd=["sh"], tty=1, stdin=1, stdout=1)["url"]) as stream:
            stream.send("tty\n")
            stream.expect("/dev/pts/0")
            for rows, columns in ((31, 97), (40, 120)):
                stream.resize(rows, columns)
                eventually(lambda: stream.shows(f"{rows} {columns}", "stty size"))
            stream.send("exit 5\n")
            has(json.dumps(stream.ends()), '"message": "5"')


@cri.row
def attach_is_connected_to_its_process(c):
    with c.pod() as pod:
        one = pod.container("cat", stdin=1, tty=1)
        with Stream(c.call("Attach", container_id=one.id, tty=1, stdin=1, stdout=1)["url"]) as stream:
            stream.send("said\n")
            stream.expect("said\r\nsaid\r\n")
            stream.send("\x04")
            one.ends(0)


@cri.row
def logs_are_lines_with_time_stream_and_tag(c):
    with c.pod() as pod:
        wait = "while ! test -e /go; do sleep 0.1; done"
        one = pod.container("sh", "-c", f"echo out; echo err >&2; {wait}; echo late; sleep 1000")
        eventually(lambda: true(len(one.lines()) == 2, f"the log is {one.lines()}"))
        same(sorted(one.lines()), [("stderr", "F", "err"), ("stdout", "F", "out")], "log")
        # As a kubelet rotates it.
        os.rename(one.log, one.log + ".1")
        c.call("ReopenContainerLog", container_id=one.id)
        one.exec("touch", "/go")
        one.prints("late")
        lacks(read(one.log + ".1"), "late")
        two = pod.container("printf", "unfinished", name="two")
        two.ends(0)
        same(two.lines(), [("stdout", "P", "unfinished")], "log")


@cri.row
def limits_are_in_a_group_below_the_pods(c):
    resources = {
        "cpu_shares": 256,
        "cpu_quota": 25000,
        "cpu_period": 50000,
        "memory_limit_in_bytes": 96 << 20,
        "oom_score_adj": 900,
        "cpuset_cpus": "0",
    }
    with c.pod() as pod:
        one = pod.container(resources=resources)
        for pid in (one.pid(), pod.pid()):
            has(read(f"/proc/{pid}/cgroup"), f"{pod.group}/")
        if unified():
            same(one.limit("cpu", "cpu.max"), "25000 50000", "cpu.max")
            true(1 < int(one.limit("cpu", "cpu.weight")) < 100, f"cpu.weight is {one.limit('cpu', 'cpu.weight')}")
            same(one.limit("memory", "memory.max"), str(96 << 20), "memory.max")
        else:
            same(one.limit("cpu", "cpu.shares"), "256", "cpu.shares")
            same(one.limit("cpu", "cpu.cfs_quota_us"), "25000", "quota")
            same(one.limit("cpu", "cpu.cfs_period_us"), "50000", "period")
            same(one.limit("memory", "memory.limit_in_bytes"), str(96 << 20), "memory.limit_in_bytes")
        same(one.limit("cpuset", "cpuset.cpus"), "0", "cpuset.cpus")
        same(read(f"/proc/{one.pid()}/oom_score_adj"), "900", "oom_score_adj")


@cri.row
def huge_pages_are_limited(c):
    resources = {"memory_limit_in_bytes": 64 << 20, "hugepage_limits": [{"page_size": "2MB", "limit": 4 << 20}]}
    with c.pod() as pod:
        one = pod.container(resources=resources)
        if unified() and "hugetlb" not in read("/sys/fs/cgroup/cgroup.controllers"):
            raise Skip("no hugetlb controller")
        name = "hugetlb.2MB.max" if unified() else "hugetlb.2MB.limit_in_bytes"
        same(one.limit("hugetlb", name), str(4 << 20), name)


@cri.row
def files_of_cgroup_v2_are_written_by_name(c):
    if not unified():
        raise Skip("cgroup v1 has no such files")
    with c.pod() as pod:
        one = pod.container(resources={"unified": {"memory.high": str(48 << 20), "memory.low": str(8 << 20)}})
        same(one.limit("memory", "memory.high"), str(48 << 20), "memory.high")
        same(one.limit("memory", "memory.low"), str(8 << 20), "memory.low")


@cri.row
def an_update_changes_limits(c):
    with c.pod() as pod:
        one = pod.container(resources={"memory_limit_in_bytes": 96 << 20, "cpu_quota": 25000, "cpu_period": 50000})
        resources = {"memory_limit_in_bytes": 128 << 20, "cpu_quota": 75000, "cpu_period": 100000, "cpu_shares": 512}
        c.call("UpdateContainerResources", container_id=one.id, linux=resources)
        same(one.limit("memory", "memory.max" if unified() else "memory.limit_in_bytes"), str(128 << 20), "memory")
        if unified():
            same(one.limit("cpu", "cpu.max"), "75000 100000", "cpu.max")
        else:
            same(one.limit("cpu", "cpu.cfs_quota_us"), "75000", "quota")
            same(one.limit("cpu", "cpu.shares"), "512", "shares")
        same(one.exec("echo", "on"), "on")


@cri.row
def stats_of_a_container_and_of_a_pod_are_told(c):
    needs_mounted_hierarchies()
    with c.pod() as pod:
        write = "dd if=/dev/zero of=/dev/shm/it bs=1M count=8 2>/dev/null"
        one = pod.container("sh", "-c", f"{write}; echo written; sleep 1000")
        one.prints("written")

        def told():
            stats = c.call("ContainerStats", container_id=one.id)["stats"]
            true(stats["memory"]["working_set_bytes"]["value"] > 8 << 20, f"they are {stats}")
            true(stats["cpu"]["usage_core_nano_seconds"]["value"] > 0, f"they are {stats}")
            stats = c.call("PodSandboxStats", pod_sandbox_id=pod.id)["stats"]["linux"]
            same(len(stats["containers"]), 1, f"containers in {stats}")
            true(stats["cpu"]["usage_core_nano_seconds"]["value"] > 0, f"they are {stats}")
            true(stats["memory"]["working_set_bytes"]["value"] > 8 << 20, f"they are {stats}")

        eventually(told)


@cri.row
def stop_waits_and_then_kills(c):
    with c.pod() as pod:
        forever = "echo set; while :; do sleep 0.1; done"
        kind = pod.container("sh", "-c", f'trap "echo bye; exit 3" TERM; {forever}', name="kind")
        kind.prints("set")
        kind.stop(60)
        kind.ends(3)
        kind.prints("bye")
        deaf = pod.container("sh", "-c", f'trap "" TERM; {forever}', name="deaf")
        deaf.prints("set")
        true(deaf.stop(2) >= 2, "it did not wait")
        deaf.ends(137)


@cri.row
def a_container_is_made_again_after_it_ended(c):
    with c.pod() as pod:
        for attempt in range(3):
            one = pod.container("sh", "-c", f"echo attempt {attempt}; exit {attempt}", attempt=attempt)
            one.ends(attempt)
            c.call("RemoveContainer", container_id=one.id)
        same(one.printed(), "attempt 0\nattempt 1\nattempt 2", "log")


@cri.row
def too_much_memory_is_told_as_an_oom_kill(c):
    needs_mounted_hierarchies()
    with c.pod() as pod:

        def killed():
            greedy = pod.container("sh", "-c", "tail /dev/zero", resources={"memory_limit_in_bytes": 32 << 20})
            greedy.ends(137, 60)
            try:
                eventually(lambda: same(greedy.status()["reason"], "OOMKilled", "reason"), 2)
            finally:
                c.call("RemoveContainer", container_id=greedy.id)

        heard(killed)


@cri.row
def what_cannot_start_is_told_and_leaves_nothing(c):
    with c.pod() as pod:
        one = pod.container("no-such-program", start=False)
        with refused("not found in $PATH"):
            c.call("StartContainer", container_id=one.id)
        same(one.status()["exit_code"], 128, "exit code")
        same(one.status()["reason"], "StartError", "reason")
        c.call("RemoveContainer", container_id=one.id)
        same(leftovers(one.id), [], "what is left")


@cri.row
def a_users_groups_capabilities_and_root_are_as_configured(c):
    with c.pod() as pod:
        user = {"run_as_user": {"value": 1000}, "run_as_group": {"value": 2000}, "supplemental_groups": [3000]}
        same(pod.run("sh", "-c", "id -u; id -g; id -G", security=user), "1000\n2000\n2000 3000")
        same(pod.run("touch", "/x", status=1, security={"readonly_rootfs": 1}), "touch: /x: Read-only file system")
        dropped = {"capabilities": {"drop_capabilities": ["ALL"], "add_capabilities": ["NET_BIND_SERVICE"]}}
        has(pod.run("grep", "CapEff", "/proc/self/status", security=dropped), "0000000000000400")
        has(pod.run("grep", "NoNewPrivs", "/proc/self/status", security={"no_new_privs": 1}), "1")
        paths = {"masked_paths": ["/proc/kcore", "/proc/keys"], "readonly_paths": ["/proc/sys"]}
        one = pod.container(security=paths)
        same(one.exec("cat", "/proc/keys"), "")
        has(one.exec("sh", "-c", "echo 1 > /proc/sys/kernel/panic", status=1), "Read-only")


@cri.row
def seccomp_is_the_default_a_file_or_none(c):
    forbidden = {"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 95}
    filters = {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [forbidden]}
    profile = c.place.file("cri/no-mkdir.json", json.dumps(filters))
    with c.pod() as pod:
        mode = ("grep", "Seccomp:", "/proc/self/status")
        default = {"seccomp": {"profile_type": RUNTIME_DEFAULT}}
        same(pod.run(*mode).split()[1], "0", "mode without a filter")
        same(pod.run(*mode, security=default).split()[1], "2", "mode")
        pod.run("unshare", "-U", "true", status=1, security=default)
        local = {"seccomp": {"profile_type": LOCALHOST, "localhost_ref": profile}}
        has(pod.run("mkdir", "/x", status=1, security=local), "not supported")


@cri.row
def apparmor_confines_by_default_or_not(c):
    needs_apparmor()
    with c.pod() as pod:
        label = ("cat", "/proc/self/attr/current")
        default = pod.run(*label, security={"apparmor": {"profile_type": RUNTIME_DEFAULT}})
        has(default, "cri-containerd.apparmor.d (enforce)")
        has(pod.run(*label, security={"apparmor": {"profile_type": UNCONFINED}}), "unconfined")


@cri.row
def privileged_may_do_what_others_may_not(c):
    with c.pod(privileged=True) as pod:
        # What mount itself says of a refusal depends on who has refused.
        mount = ("sh", "-c", "mount -t tmpfs none /tmp || exit 1")
        has(pod.run(*mount, status=1), "denied")
        pod.run(*mount, security={"privileged": 1})
        lacks(pod.run("ls", "/dev"), "kmsg")
        has(pod.run("ls", "/dev", security={"privileged": 1}), "kmsg")
        has(pod.run("sh", "-c", "grep ' /sys sysfs ' /proc/mounts", security={"privileged": 1}), "sysfs rw")


@cri.row
def sysctls_of_a_pod_are_set(c):
    settings = {"net.ipv4.ip_unprivileged_port_start": "81", "kernel.shm_rmid_forced": "1"}
    with c.pod(network=POD, linux={"sysctls": settings}) as pod:
        files = ["/proc/sys/" + name.replace(".", "/") for name in settings]
        same(pod.container().exec("cat", *files), "81\n1")


@cri.row
def devices_and_variables_are_given(c):
    device = {"container_path": "/dev/also-null", "host_path": "/dev/null", "permissions": "rw"}
    with c.pod() as pod:
        one = pod.container(devices=[device], envs=[{"key": "SAID", "value": "so it is"}])
        one.exec("sh", "-c", "echo > /dev/also-null && test -c /dev/also-null")
        same(one.exec("sh", "-c", "echo $SAID"), "so it is")


@cri.row
def a_mount_is_read_only_and_propagates_as_asked(c):
    source = c.place.directory("cri", "shared")
    mount = Command(["mount"])
    mount("--bind", source, source)
    mount("--make-shared", source)
    inner = f"{source}/in"
    os.makedirs(inner, exist_ok=True)

    def at(**more):
        return [{"container_path": "/s", "host_path": source, **more}]

    try:
        with c.pod(privileged=True) as pod:
            closed = pod.container(name="closed", mounts=at(readonly=1))
            slave = pod.container(name="slave", mounts=at(propagation=HOST_TO_CONTAINER))
            both = pod.container(name="both", mounts=at(propagation=BIDIRECTIONAL), security={"privileged": 1})
            has(closed.exec("touch", "/s/x", status=1), "Read-only")
            both.exec("mount", "-t", "tmpfs", "inner", "/s/in")
            has(read("/proc/self/mounts"), f"inner {inner}")
            has(slave.exec("cat", "/proc/mounts"), "inner /s/in")
            lacks(closed.exec("cat", "/proc/mounts"), "inner /s/in")
            Command(["umount"])(inner)
            lacks(both.exec("cat", "/proc/mounts"), "inner /s/in")
    finally:
        Command(["umount"]).any("--lazy", "--recursive", source)


@cri.row
def a_pod_has_a_user_namespace(c):
    if c.version.startswith("1.6"):
        raise Skip("containerd 1.6 has no user namespaces for pods")
    ids = [{"host_id": 200000, "container_id": 0, "length": 65536}]
    with c.pod(network=POD, users={"mode": POD, "uids": ids, "gids": ids}) as pod:
        one = pod.container()
        same(one.exec("cat", "/proc/self/uid_map").split(), ["0", "200000", "65536"], "uid_map")
        same(os.stat(f"/proc/{one.pid()}").st_uid, 200000, "owner of the process")
        same(one.exec("sh", "-c", "id -u; touch /mine; stat -c %u /mine"), "0\n0")
        same(namespace(one, "user"), namespace(pod, "user"), "user namespace")
        has(one.exec("ip", "addr"), pod.status()["status"]["network"]["ip"])


@cri.row
def pods_outlive_the_daemon(c):
    with c.pod() as pod:
        one = pod.container()
        pid = one.pid()
        c.daemons.close()
        true(os.path.exists(f"/proc/{pid}"), "it died with the daemon")
        c.daemons.enter_context(c.again())
        eventually(lambda: same(one.status()["state"], RUNNING, "state"))
        same(one.exec("echo", "here"), "here")
        one.stop(0)
        one.ends(137)


@cri.row
def six_pods_live_at_once_and_leave_nothing(c):
    with contextlib.ExitStack() as stack:
        pods = [stack.enter_context(c.pod(network=POD)) for _ in range(6)]
        made = [pod.id for pod in pods] + [pod.container().id for pod in pods]
        same({each["state"] for each in c.call("ListContainers")["containers"]}, {RUNNING}, "states")
        true(all(leftovers(each) for each in made), "what is looked for is not there while they live")
    same(c.call("ListPodSandbox")["items"], [], "pods")
    same(c.call("ListContainers")["containers"], [], "containers")
    same([left for each in made for left in leftovers(each)][:5], [], "what is left")


@contextlib.contextmanager
def refused(part):
    """What is asked for inside must be refused, with these words in the reason."""
    try:
        yield
    except Refused as error:
        has(str(error), part)
    else:
        raise Failed(f"nobody refused it: {part!r}")


def namespace(owner, kind):
    return os.readlink(f"/proc/{owner.pid()}/ns/{kind}")


def leftovers(identity):
    """Whatever bears a container's name: groups, mounts, processes, and the runtime's own state."""
    # Where hack/engines keeps a hierarchy from a runtime, its directories are no groups.
    groups = ["-fstype", "cgroup", "-o", "-fstype", "cgroup2"]
    find = Command(["find", "/sys/fs/cgroup", "/run/containerd/runc/k8s.io", "-name", f"*{identity}*", "-prune"])
    found = find("(", *groups, "-o", "-path", "/run/*", ")", "-print").split()
    found += [line for line in read("/proc/self/mountinfo").splitlines() if identity in line]
    for each in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError):
            if identity in read(f"/proc/{each}/cgroup"):
                found.append(f"process {each}")
    return found
