"""The machine that the rows run on: what it has, and where they may write."""

import hashlib
import json
import os
import shutil
import subprocess
import tarfile

from table import Command, Skip, eventually


class Place:
    def __init__(self, runtime, work, debian):
        self.runtime, self.work, self.debian = os.path.abspath(runtime), work, os.path.abspath(debian)
        os.makedirs(work, exist_ok=True)

    def directory(self, *parts):
        path = os.path.join(self.work, *parts)
        os.makedirs(path, exist_ok=True)
        return path

    def file(self, name, text, mode=0o644):
        path = os.path.join(self.work, name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        write(path, text)
        os.chmod(path, mode)
        return path

    def rootfs(self):
        """A root filesystem that is busybox, and its tarball `rootfs.tar`. Returns the tarball."""
        archive = os.path.join(self.work, "rootfs.tar")
        if os.path.exists(archive):
            return archive
        root = self.directory("rootfs")
        for name in ("bin", "dev", "etc", "home", "proc", "root", "run", "sys", "tmp", "usr/bin", "var"):
            os.makedirs(os.path.join(root, name), exist_ok=True)
        os.chmod(os.path.join(root, "tmp"), 0o1777)
        busybox = need("busybox")
        shutil.copy(busybox, os.path.join(root, "bin/busybox"))
        for applet in subprocess.run([busybox, "--list"], text=True, stdout=subprocess.PIPE).stdout.split():
            if applet != "busybox":
                os.symlink("busybox", os.path.join(root, "bin", applet))
        for name, text in {
            "etc/passwd": "root:x:0:0:root:/root:/bin/sh\nguest:x:1000:1000::/home:/bin/sh\n",
            "etc/group": "root:x:0:\nguest:x:1000:\nhelpers:x:2000:guest\n",
        }.items():
            write(os.path.join(root, name), text)
        with tarfile.open(archive, "w") as file:
            file.add(root, ".")
        return archive

    def image(self, name="busy", command=("sh",)):
        """The root filesystem as an image that containerd and Podman load. Returns its archive."""
        directory = self.directory("images", name)
        archive = directory + ".tar"
        if not os.path.exists(archive):
            write_image(self.rootfs(), archive, directory, name, command)
        return archive


def write_image(rootfs, archive, directory, name, command):
    """An OCI image of one layer, as an archive."""

    def blob(data, kind):
        digest = hashlib.sha256(data).hexdigest()
        os.makedirs(f"{directory}/blobs/sha256", exist_ok=True)
        with open(f"{directory}/blobs/sha256/{digest}", "wb") as file:
            file.write(data)
        return {"mediaType": f"application/vnd.oci.image.{kind}", "digest": f"sha256:{digest}", "size": len(data)}

    with open(rootfs, "rb") as file:
        layer = blob(file.read(), "layer.v1.tar")
    config = {
        "architecture": {"x86_64": "amd64", "aarch64": "arm64"}[os.uname().machine],
        "os": "linux",
        "config": {"Cmd": command, "Env": ["PATH=/bin:/usr/bin"]},
        "rootfs": {"type": "layers", "diff_ids": [layer["digest"]]},
    }
    config = blob(json.dumps(config).encode(), "config.v1+json")
    manifest = {
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": config,
        "layers": [layer],
    }
    manifest = blob(json.dumps(manifest).encode(), "manifest.v1+json")
    # Docker and ctr look for a name in different annotations.
    manifest["annotations"] = {"io.containerd.image.name": name, "org.opencontainers.image.ref.name": name}
    for name, content in {
        "index.json": {"schemaVersion": 2, "manifests": [manifest]},
        "oci-layout": {"imageLayoutVersion": "1.0.0"},
    }.items():
        with open(f"{directory}/{name}", "w") as file:
            json.dump(content, file)
    with tarfile.open(archive, "w") as file:
        file.add(directory, ".")


def need(program, package=None):
    found = shutil.which(program)
    if not found:
        raise Skip(f"{program} is not installed (package {package or program})")
    return found


def unified():
    """Whether control groups are v2 and nothing else."""
    return os.path.exists("/sys/fs/cgroup/cgroup.controllers")


def group_file(pid, controller, name):
    """Reads a file of the control group that a process of the host is in."""
    with open(f"/proc/{pid}/cgroup") as file:
        for line in file:
            _, controllers, path = line.rstrip("\n").split(":", 2)
            if controllers == "" and unified():
                return read(f"/sys/fs/cgroup{path}/{name}")
            if controller in controllers.split(",") and os.path.exists(f"/sys/fs/cgroup/{controllers}"):
                return read(f"/sys/fs/cgroup/{controllers}{path}/{name}")
    raise Skip(f"no {controller} controller is mounted")


def needs_mounted_hierarchies():
    """containerd learns nothing of a group when the kernel lists a hierarchy for it that is mounted elsewhere only."""
    for line in read("/proc/self/cgroup").splitlines():
        controllers = line.split(":")[1].removeprefix("name=")
        if not os.path.isdir(f"/sys/fs/cgroup/{controllers}"):
            raise Skip(f"the hierarchy of {controllers} is mounted elsewhere only, which confuses containerd")


def read(path):
    with open(path) as file:
        return file.read().rstrip("\n")


def write(path, text):
    with open(path, "w") as file:
        file.write(text)


def systemd():
    return os.path.isdir("/run/systemd/system")


def needs_systemd():
    if not systemd():
        raise Skip("systemd does not run here")


def heard(check):
    """
    For what an engine reads in a container's group. systemd removes that with the last process, at times before the
    engine has come to it, whatever the runtime (docs/engines.md has counts): it hears of the next container's then.
    """
    return eventually(check, 60) if systemd() else check()


def can_raise_limits():
    """CAP_SYS_RESOURCE."""
    with open("/proc/self/status") as file:
        for line in file:
            if line.startswith("CapEff:"):
                return bool(int(line.split()[1], 16) >> 24 & 1)
    return False


# An unprivileged user with subordinate ids, whom the virtual machine has and hack/engines makes here.
USER = "testuser"


def subordinate_ids():
    """The first of the user's subordinate ids."""
    for line in read("/etc/subuid").splitlines():
        name, first, _ = line.split(":")
        if name == USER:
            return int(first)
    raise Skip(f"{USER} has no subordinate ids")


def needs_criu():
    need("criu")
    done = Command(["criu", "check"]).any()
    if done.returncode:
        raise Skip(f"criu check: {(done.stderr.splitlines() or ['it fails'])[0]}")


def needs_iptables():
    done = Command(["iptables", "-t", "nat", "-S"]).any()
    if done.returncode:
        raise Skip(f"no iptables: {done.stderr.strip()}")


def needs_apparmor():
    try:
        enabled = read("/sys/module/apparmor/parameters/enabled")
    except OSError:
        enabled = "N"
    if enabled != "Y":
        raise Skip("no AppArmor in this kernel")
