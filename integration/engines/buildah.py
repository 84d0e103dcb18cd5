"""Buildah: build steps through `buildah run` and Containerfiles, with corten as the runtime of isolation "oci"."""

import contextlib

from place import need
from podman import Podman
from table import Command, Engine, has, same


@contextlib.contextmanager
def start(place):
    need("buildah")
    # Its storage is Podman's, and so are its settings; the runtime it takes from the environment.
    podman = Podman(place, "buildah")
    podman.load()
    buildah = Command(["buildah"], {"BUILDAH_RUNTIME": place.runtime, "BUILDAH_ISOLATION": "oci"})
    try:
        yield buildah
    finally:
        buildah.any("rm", "--all")


engine = Engine("buildah", start)


@engine.row
def run_changes_a_container_that_commit_keeps(b):
    name = b("from", "localhost/busy")
    same(b("run", "--network", "none", name, "sh", "-c", "echo made > /made; echo said"), "said")
    b("run", "--network", "none", name, "sh", "-c", "exit 3", status=3)
    b("config", "--cmd", "cat /made", name)
    b("commit", "--quiet", name, "localhost/made")
    other = b("from", "localhost/made")
    same(b("run", "--network", "none", other, "cat", "/made"), "made")


@engine.row
def run_takes_a_terminal_users_volumes_and_limits(b):
    name = b("from", "localhost/busy")
    with b.terminal("run", "--network", "none", "--tty", name, "tty") as terminal:
        terminal.expect("/dev/pts/0")
        terminal.ends(0)
    same(b("run", "--network", "none", "--user", "guest", name, "id", "-u"), "1000")
    b("run", "--network", "none", "--volume", "/etc:/outside:ro", name, "test", "-f", "/outside/passwd")
    dropped = b("run", "--network", "none", "--cap-drop", "ALL", name, "grep", "CapEff", "/proc/self/status")
    same(dropped.split()[1], "0" * 16)


@engine.row
def build_runs_its_steps(b):
    steps = "FROM localhost/busy\nRUN echo built > /built\nUSER guest\nRUN id -u > /tmp/uid\n"
    b("build", "--network", "none", "--tag", "localhost/by-buildah", "--file", "-", input=steps, seconds=120)
    name = b("from", "localhost/by-buildah")
    same(b("run", "--network", "none", name, "cat", "/built", "/tmp/uid"), "built\n1000")


@engine.row
def a_step_that_fails_is_told(b):
    name = b("from", "localhost/busy")
    has(b.any("run", "--network", "none", name, "no-such-program").stderr, "no-such-program")
