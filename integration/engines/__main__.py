"""Walks the rows on this machine: see hack/engines."""

import argparse
import os
import sys

import table
from place import Place

os.environ["PATH"] = "/usr/sbin:/usr/bin:/sbin:/bin"

import containerd  # noqa: E402, F401
import cri  # noqa: E402, F401
import docker  # noqa: E402, F401
import podman  # noqa: E402, F401
import buildah  # noqa: E402, F401
import swarm  # noqa: E402, F401


options = argparse.ArgumentParser()
options.add_argument("--list", action="store_true")
options.add_argument("--table", action="store_true")
options.add_argument("--runtime")
options.add_argument("--work")
options.add_argument("--debian")
options.add_argument("words", nargs="*")
options = options.parse_args()

if options.list:
    for engine in table.ENGINES:
        for each in engine.rows:
            print(f"{engine.name}: {table.sentence(each)}")
elif options.table:
    sys.exit(not table.show([column.split("=", 1) for column in options.words]))
else:
    table.run(Place(options.runtime, options.work, options.debian), options.words)
