"""`python -m nodes.namenode --config FILE`: what `dfs namenode` and systemd run."""

from __future__ import annotations

import argparse
import functools
import sys
from pathlib import Path

from dfs import certificates, errors, keys
from dfs.config import load_namenode
from dfs.daemon import Health, run_daemon
from dfs.keystore import KeyStore
from dfs.rpc import SocketNetwork
from dfs.runtime import RealRuntime
from nodes.namenode.daemon import run_namenode


def main() -> int:
    parser = argparse.ArgumentParser(prog="dfs namenode", description="Run a NameNode in the foreground.")
    parser.add_argument("--config", type=Path, required=True, metavar="FILE")
    try:
        config = load_namenode(parser.parse_args().config)
        store = KeyStore(config.keys)
        cluster = keys.load_cluster(config.keys)
        certificates.refuse_expired(cluster.tls)
        network = SocketNetwork(cluster.tls)
    except errors.DfsError as error:
        print(f"dfs namenode: {error}", file=sys.stderr)
        return 1
    health = Health()
    serve = functools.partial(
        run_namenode,
        config,
        cluster,
        network=network,
        nameserver_network=SocketNetwork(),
        runtime=RealRuntime(),
        reload=store.look,
        health=health,
    )
    return run_daemon(serve, name="namenode", log_level=config.log_level, health=health)


if __name__ == "__main__":
    sys.exit(main())
