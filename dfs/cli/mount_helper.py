"""`mount.dfs` and `mount.fuse.dfs`, which mount(8) and /etc/fstab call.

The kernel lists a mount as of the type fuse.dfs, whatever mount(8) was told: so that is whom it asks to change one.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path
from typing import Final

from dfs import errors
from dfs.cli.context import complain, sentence
from dfs.cli.mounting import mount_in_background, options_of
from dfs.config import namenode_address
from dfs.mountoptions import parse
from dfs.mountpoint import find
from dfs.stdio import have_standard_streams

_FAILED: Final = 32
"""mount(8): mount failure."""


def parse_source(source: str) -> tuple[list[str], str]:
    """What `mount -t dfs SOURCE` names: which cluster, in the options of `python -m mount`, and the directory of it.

    SOURCE is `HOST[:PORT]:/PATH`, or a client.toml, or `dfs` for the cluster that is configured.
    """
    if source in ("dfs", "none"):
        return [], "/"
    if source.endswith(".toml"):
        return ["--config", source], "/"
    address, separator, path = source.partition(":/")
    if not separator or not address:
        raise errors.InvalidArgument(f"not a file system to mount: {source!r}; write HOST:/PATH or HOST:PORT:/PATH")
    return ["--namenode", namenode_address(address)], "/" + path


def remount(mountpoint: Path, options: str) -> None:
    """Have the kernel change a mount that is there as it is told; what `options` do not mention stays as it is.

    Raises `NotFound`, `InvalidArgument` for what the kernel cannot change by itself, `NotPermitted`.
    """
    found = find(mountpoint)
    if found is None or not found.is_dfs:
        raise errors.NotFound(f"no cluster is mounted on {mountpoint}")
    wanted, had = parse(options), options_of(mountpoint)
    if had is not None and (others := wanted.beyond(parse(had))):
        raise errors.InvalidArgument(f"not to be changed while it is mounted: {', '.join(others)}; unmount it first")
    changes = ",".join(["remount", *wanted.changeable])
    done = subprocess.run(
        ["mount", "-i", "-o", changes, "--", str(mountpoint)],
        env={**os.environ, "LIBMOUNT_FORCE_MOUNT2": "always"},  # by the newer calls the kernel lets FUSE change nothing
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise errors.NotPermitted(done.stderr.strip() or f"mount ended with status {done.returncode}")


def main() -> None:
    """`mount.dfs SOURCE DIR [-sfnv] [-o OPTIONS]`, as mount(8) calls it. Ends the process with an exit status."""
    have_standard_streams()
    parser = argparse.ArgumentParser(prog="mount.dfs", description="Mount a dfs cluster; called by mount(8).")
    sources = "HOST[:PORT]:/PATH; or a client.toml, as FILE.toml; or dfs, or none: the cluster that is configured"
    parser.add_argument("source", metavar="SOURCE", help=sources)
    parser.add_argument("mountpoint", metavar="DIR", type=Path)
    parser.add_argument("-o", dest="options", default="")
    for flag, meaning in (("-s", "ignored"), ("-f", "do not mount"), ("-n", "ignored"), ("-v", "ignored")):
        parser.add_argument(flag, action="store_true", help=meaning)
    arguments = parser.parse_args()
    options = arguments.options.split(",")
    try:
        if "remount" in options:
            if not arguments.f:
                remount(arguments.mountpoint, ",".join(option for option in options if option != "remount"))
            return
        which, subtree = parse_source(arguments.source)
        if not arguments.f:
            which += ["--source", arguments.source]
            mount_in_background(arguments.mountpoint, arguments.options, subtree, which)
    except OSError as error:
        complain(sentence(error))
        sys.exit(_FAILED)
