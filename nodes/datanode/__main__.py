"""`python -m nodes.datanode --config FILE`: what `dfs datanode` and systemd run."""

from __future__ import annotations

import argparse
import functools
import sys
from pathlib import Path

from dfs import certificates, errors, keys
from dfs.config import load_datanode
from dfs.daemon import Health, run_daemon
from dfs.keystore import KeyStore
from dfs.rpc import SocketNetwork
from dfs.runtime import RealRuntime
from nodes.datanode.daemon import run_datanode


def main() -> int:
    parser = argparse.ArgumentParser(prog="dfs datanode", description="Run a DataNode in the foreground.")
    parser.add_argument("--config", type=Path, required=True, metavar="FILE")
    try:
        config = load_datanode(parser.parse_args().config)
        key_file = keys.load_node(config.key, config.node)
        certificates.refuse_expired(key_file.tls)
        network = SocketNetwork(key_file.tls)
        store = KeyStore(config.key)
    except errors.DfsError as error:
        print(f"dfs datanode: {error}", file=sys.stderr)
        return 1
    health = Health()
    serve = functools.partial(
        run_datanode,
        config,
        key_file,
        network=network,
        runtime=RealRuntime(),
        keep=store.keep,
        health=health,
    )
    return run_daemon(serve, name="datanode", log_level=config.log_level, health=health, node=config.node)


if __name__ == "__main__":
    sys.exit(main())
