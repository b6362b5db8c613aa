"""`python -m mount`: one mount in the foreground. `dfs mount` starts it, and puts it into the background."""

from __future__ import annotations

import argparse
import dataclasses
import os
import sys
from pathlib import Path

import structlog
import trio

from dfs import ending, errors, tasks
from dfs.config import find_client_config, find_key_file
from dfs.daemon import tune_memory
from dfs.keystore import KeyStore
from dfs.mountoptions import Options, parse
from dfs.stdio import have_standard_streams
from dfs.systemd import notify
from dfs.telemetry import configure_logs
from mount.process import Mounting, run_mount

log = structlog.get_logger(__name__)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m mount", description=__doc__)
    parser.add_argument("mountpoint", type=Path)
    parser.add_argument("--config", help="the client.toml of the cluster")
    parser.add_argument("--namenode", help="HOST:PORT, instead of a configuration")
    parser.add_argument("--subtree", default="/", help="the directory of the cluster to mount")
    parser.add_argument(
        "--source", help="what the kernel lists as what is mounted: NAMENODE:SUBTREE, if nothing is said"
    )
    parser.add_argument("-o", dest="options", default="", metavar="OPTIONS")
    parser.add_argument("--ready-fd", type=int, help="where to write `ok`, or why not, when that is known")
    parser.add_argument("--end-file", type=Path, help="where to write what was to be committed, and what came of it")
    parser.add_argument("--log-file", type=Path, help="which file stderr is, so that it does not grow without end")
    parser.add_argument("--log-level", default="info")
    return parser.parse_args()


def _settings(arguments: argparse.Namespace, options: Options) -> tuple[str, KeyStore, Options]:
    if arguments.namenode:
        return arguments.namenode, KeyStore(find_key_file(options.key)), options
    config = find_client_config(arguments.config)
    if options.wait_s is None:
        options = dataclasses.replace(options, wait_s=config.namenode_wait_s)
    return config.namenode, KeyStore(options.key or config.key), options


def main() -> int:
    have_standard_streams()
    arguments = _arguments()
    configure_logs(arguments.log_level)
    tune_memory()

    def tell(message: str) -> None:
        fd, arguments.ready_fd = arguments.ready_fd, None
        if fd is not None:
            os.write(fd, os.fsencode(message))
            os.close(fd)

    def ready() -> None:
        tell("ok")
        notify(READY="1", STATUS=f"mounted at {arguments.mountpoint}")

    def tell_end(said: ending.Ending) -> None:
        if arguments.end_file is not None:
            ending.write(arguments.end_file, said)

    def fail(reason: str) -> None:
        tell(reason)
        print(f"dfs mount: {reason}", file=sys.stderr)

    try:
        wished = parse(arguments.options)
    except errors.InvalidArgument as error:
        fail(error.message)
        return ending.USAGE_STATUS
    try:
        namenode, store, options = _settings(arguments, wished)
        mountpoint = arguments.mountpoint.absolute()
        what = Mounting(namenode, arguments.subtree, arguments.source or f"{namenode}:{arguments.subtree}", mountpoint)
        trio.run(run_mount, what, store, options, ready, tell_end, arguments.log_file)
    except BaseException as error:
        first = tasks.leaves(error)[0]
        if isinstance(first, KeyboardInterrupt):
            return 0
        if not isinstance(first, errors.DfsError):
            log.error("the mount failed", exc_info=first)
        fail(tasks.reason(first))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
