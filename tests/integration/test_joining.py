"""The life of keys on hosts of their own: `dfs init` makes a cluster, machines join, keys are renewed and revoked."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import pytest
import trio

from dfs import errors, keys, sealing, tokens
from dfs.client import joining
from dfs.keys import KeyFile, Masters, Role
from tests.integration.hosts import Hosts, hosts, need_namespaces
from tests.integration.real import real_cluster
from tests.keys import MASTERS

PATIENCE_S: Final = 90.0
NAMENODE: Final = "namenode"
PORT: Final = 9400
_SEAL_BYTES: Final = sealing.PUBLIC_BYTES + 16
DFS: Final = [sys.executable, "-m", "dfs.cli"]


class Lab:
    """Machines, each with a directory in the place of /etc/dfs. Nobody edits a file on any of them."""

    def __init__(self, network: Hosts, directory: Path) -> None:
        self.network = network
        self.directory = directory
        self.address = f"{network.address(NAMENODE)}:{PORT}"

    def etc(self, name: str) -> Path:
        return self.directory / name / "etc"

    def dfs(self, name: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
        """Run `dfs` on a host, with the host's own configuration."""
        environment = {**os.environ, "DFS_CONFIG": str(self.etc(name) / "client.toml")}
        return self.network.dfs(name, *arguments, environment=environment)

    def well(self, name: str, *arguments: str | Path) -> str:
        """What `dfs` printed on a host, where it must succeed."""
        done = self.dfs(name, *arguments)
        assert done.returncode == 0, f"dfs {arguments}: {done.stdout}{done.stderr}"
        return done.stdout

    def badly(self, name: str, *arguments: str | Path) -> str:
        """The sentence that `dfs` complained with, where it must fail."""
        done = self.dfs(name, *arguments)
        assert done.returncode == 1, f"dfs {arguments}: {done.stdout}{done.stderr}"
        assert len(done.stderr.splitlines()) == 1, done.stderr
        return done.stderr

    def init(self, *arguments: str) -> str:
        told = self.well(NAMENODE, "init", "--dir", self.etc(NAMENODE), "--listen", self.address, *arguments)
        self.start(NAMENODE)
        self.until(lambda: self.dfs(NAMENODE, "status").returncode == 0, "the NameNode")
        return told

    def start(self, name: str) -> None:
        kind = NAMENODE if name == NAMENODE else "datanode"
        argv = [*DFS, kind, "--config", self.etc(name) / f"{kind}.toml"]
        self.network.start(name, argv, self.directory / f"{name}.log")

    def token(self, *arguments: str) -> str:
        return self.well(NAMENODE, "join", "token", "--quiet", *arguments).strip()

    def joining(self, name: str, token: str) -> list[str | Path]:
        """The command for a new machine. All hosts here have the machine's name, so they say one."""
        return ["join", self.address, "--token", token, "--dir", self.etc(name), "--name", name]

    def join_node(self, name: str) -> str:
        disk = self.directory / name / "disk"
        told = self.well(name, *self.joining(name, self.token()), "--data", disk)
        self.start(name)
        return told

    def join_client(self, name: str, *arguments: str) -> str:
        return self.well(name, *self.joining(name, self.token("--role", "client", *arguments)))

    def states(self) -> dict[str, str]:
        return {node["node"]: node["state"] for node in json.loads(self.well(NAMENODE, "nodes", "--json"))}

    def status(self) -> str:
        return self.well(NAMENODE, "key", "status")

    def until(self, condition: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline:
            if condition():
                return
            time.sleep(0.2)
        logs = "".join(path.read_text()[-2000:] for path in self.directory.glob("*.log"))
        status = self.dfs(NAMENODE, "key", "status")
        raise AssertionError(f"waited {PATIENCE_S:.0f} s in vain for {what}: {status.stdout}{status.stderr}{logs}")

    def until_namenode(self) -> None:
        self.until(lambda: self.dfs(NAMENODE, "status").returncode == 0, "the NameNode")

    def node_key(self, name: str) -> Path:
        return self.etc(name) / "keys" / f"{name}.key"

    def until_nodes(self, holds: Callable[[KeyFile], bool], what: str) -> None:
        """Until the key files of both DataNodes are so."""
        for name in ("n1", "n2"):
            self.until(lambda name=name: holds(keys.load(self.node_key(name))), f"{name} to {what}")  # type: ignore[misc]

    def until_up(self, *nodes: str) -> None:
        self.until(lambda: self.states() == dict.fromkeys(nodes, "up"), f"DataNodes {nodes}")


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    """Machines on which there is nothing yet."""
    need_namespaces()
    with hosts(NAMENODE, "n1", "n2", "alice") as network:
        yield Lab(network, tmp_path)


@pytest.fixture
def cluster(lab: Lab) -> Lab:
    """A cluster with two DataNodes and a client."""
    lab.init()
    lab.join_node("n1")
    lab.join_node("n2")
    lab.join_client("alice")
    lab.until_up("n1", "n2")
    return lab


def upload(lab: Lab, name: str, path: str) -> bytes:
    data = os.urandom(300_000)
    (lab.directory / "data").write_bytes(data)
    lab.well(name, "upload", lab.directory / "data", path)
    return data


def download(lab: Lab, name: str, path: str) -> bytes:
    (lab.directory / "back").unlink(missing_ok=True)
    lab.well(name, "download", path, lab.directory / "back")
    return (lab.directory / "back").read_bytes()


# --- a cluster comes to be ------------------------------------------------------------------------------


def test_a_cluster_is_made_and_machines_join_it_without_editing_a_file(lab: Lab) -> None:
    told = lab.init()
    assert "dfs join token" in told and f"reached at {lab.address}" in told
    told = lab.well(NAMENODE, "join", "token").split("\n")
    assert f"    dfs join {lab.network.address(NAMENODE)}" in told  # in a line without the token, which others may see
    assert "DataNode n1" in lab.join_node("n1")
    lab.join_node("n2")
    lab.join_client("alice")
    lab.until_up("n1", "n2")
    data = upload(lab, "alice", "/file")
    assert download(lab, NAMENODE, "/file") == data
    for key_file in lab.directory.glob("*/etc/**/*.key*"):
        assert key_file.stat().st_mode & 0o777 == 0o600
    for daemon in ("n1", "n2"):
        assert lab.network.address(daemon) in (lab.etc(daemon) / "datanode.toml").read_text()


def test_machines_join_a_cluster_with_tls_and_keep_their_certificates_when_keys_rotate(lab: Lab) -> None:
    lab.init("--tls")
    lab.join_node("n1")
    lab.join_node("n2")
    lab.join_client("alice")
    lab.until_up("n1", "n2")
    assert "certificate of client alice" in lab.well("alice", "key", "show", lab.etc("alice") / "client.key")
    data = upload(lab, "alice", "/file")
    before = keys.load(lab.node_key("n1")).tls
    lab.well(NAMENODE, "key", "rotate")
    lab.until_nodes(lambda file: file.key is not None and file.key.id.generation == 2, "have its new key")
    assert download(lab, "alice", "/file") == data
    lab.well(NAMENODE, "key", "retire", "1")
    lab.until_nodes(lambda file: file.masters.generations == (2,), "forget generation 1")
    assert download(lab, "alice", "/file") == data
    assert keys.load(lab.node_key("n1")).tls == before
    assert keys.load(lab.etc(NAMENODE) / "cluster.keys").authority is not None


def test_what_is_there_is_never_overwritten(lab: Lab) -> None:
    lab.init()
    before = {path: path.read_bytes() for path in lab.etc(NAMENODE).glob("*.*")}
    assert "cluster.keys" in lab.badly(NAMENODE, "init", "--dir", lab.etc(NAMENODE))
    assert {path: path.read_bytes() for path in lab.etc(NAMENODE).glob("*.*")} == before
    lab.join_client("alice")
    token = lab.token("--role", "client", "--name", "alice")
    assert "client.key" in lab.badly("alice", *lab.joining("alice", token))
    shutil.rmtree(lab.etc("alice"))
    lab.well("alice", *lab.joining("alice", token))  # the token was not used up


def test_a_namenode_refuses_a_namespace_of_another_cluster(lab: Lab) -> None:
    lab.init()
    lab.network.kill(NAMENODE)
    (lab.etc(NAMENODE) / "cluster.keys").unlink()
    lab.well(NAMENODE, "key", "init", lab.etc(NAMENODE) / "cluster.keys")
    said = lab.badly(NAMENODE, "namenode", "--config", lab.etc(NAMENODE) / "namenode.toml")
    assert "the keys are those of cluster" in said


# --- tokens ---------------------------------------------------------------------------------------------


def nothing_left(lab: Lab, name: str) -> bool:
    return not list((lab.directory / name).rglob("*"))


def test_a_token_is_good_for_one_machine_once(lab: Lab) -> None:
    lab.init()
    (lab.directory / "n1").mkdir()
    token = lab.token("--role", "client")
    lab.well("alice", *lab.joining("alice", token))
    for _ in range(2):
        assert "used before" in lab.badly("n1", *lab.joining("n1", token))
        assert nothing_left(lab, "n1")
        lab.network.kill(NAMENODE)  # nor does it forget
        lab.start(NAMENODE)
        lab.until_namenode()


def test_of_two_machines_with_one_token_one_joins(lab: Lab) -> None:
    lab.init()
    token = lab.token("--role", "client")
    done: dict[str, int] = {}

    def try_to_join(name: str) -> None:
        done[name] = lab.dfs(name, *lab.joining(name, token)).returncode

    together = [threading.Thread(target=try_to_join, args=(name,)) for name in ("n1", "n2", "alice")]
    for thread in together:
        thread.start()
    for thread in together:
        thread.join()
    assert sorted(done.values()) == [0, 1, 1]


def test_a_token_that_expired_is_refused(lab: Lab) -> None:
    lab.init()
    (lab.directory / "alice").mkdir()
    masters = keys.load_cluster(lab.etc(NAMENODE) / "cluster.keys").masters
    token = tokens.issue(masters, Role.CLIENT, "", "", int(time.time()) - 1)
    assert "has expired" in lab.badly("alice", *lab.joining("alice", token))
    assert nothing_left(lab, "alice")


def test_a_token_of_another_cluster_or_mistyped_is_refused(lab: Lab) -> None:
    lab.init()
    (lab.directory / "alice").mkdir()
    foreign = tokens.issue(Masters.make(), Role.CLIENT, "", "", int(time.time()) + 600)
    assert "not of this cluster" in lab.badly("alice", *lab.joining("alice", foreign))
    token = lab.token("--role", "client")
    mistyped = token[:20] + ("A" if token[20] != "A" else "B") + token[21:]
    for bad in (mistyped, token[:-4], "hello"):
        assert "not a whole token" in lab.badly("alice", *lab.joining("alice", bad))
    assert nothing_left(lab, "alice")


def test_a_token_is_good_for_its_role_and_name_only(lab: Lab) -> None:
    lab.init()
    token = lab.token("--role", "reader", "--name", "bob", "--subtree", "/photos")
    other = lab.dfs("alice", *lab.joining("alice", token))
    assert other.returncode == 2 and "the token is for bob" in other.stderr
    disk = lab.dfs("alice", "join", lab.address, "--token", token, "--dir", lab.etc("alice"), "--data", "/nowhere")
    assert disk.returncode == 2 and "--data is for DataNodes" in disk.stderr
    lab.well("alice", "join", lab.address, "--token", token, "--dir", lab.etc("alice"))
    assert keys.load_key(lab.etc("alice") / "client.key").id.to_wire() == [1, "reader", "bob", {"subtree": "/photos"}]


def test_a_token_opens_nothing_but_join(lab: Lab) -> None:
    lab.init()
    lab.join_node("n1")
    lab.until_up("n1")
    token = tokens.parse(lab.token("--role", "admin"))
    directory = lab.etc("alice")
    directory.mkdir(parents=True)
    both = dict.fromkeys(keys.REALMS, token.secrets[keys.NAMENODE])
    keys.save(directory / "client.key", KeyFile(token._replace(secrets=both), Masters({})))
    (directory / "client.toml").write_text(f'namenode = "{lab.address}"\n')
    assert "does not allow 'cluster' at the NameNode: use a client's, a reader's or an admin's" in lab.badly(
        "alice", "ls", "/"
    )


def test_a_name_that_a_datanode_has_needs_a_token_that_says_so(lab: Lab) -> None:
    lab.init()
    lab.join_node("n1")
    lab.until_up("n1")
    again = ["--dir", lab.etc("n2"), "--name", "n1", "--data", lab.directory / "n2" / "disk"]
    assert "there is a DataNode n1 already" in lab.badly("n2", "join", lab.address, "--token", lab.token(), *again)
    lab.well("n2", "join", lab.address, "--token", lab.token("--name", "n1"), *again)


def test_a_name_that_a_client_has_needs_a_token_that_says_so(lab: Lab) -> None:
    """Machines have the same name often, up to the first dot, and keys of one name are one."""
    lab.init()
    lab.join_client("alice")
    token = lab.token("--role", "client")
    said = lab.badly("n1", *lab.joining("n1", token)[:-1], "alice")
    assert "client alice has a key already, and would have the same one: say another --name" in said
    lab.well("n1", *lab.joining("n1", token))


def test_an_impostor_learns_nothing_and_is_not_believed(lab: Lab) -> None:
    lab.init()
    (lab.directory / "alice").mkdir()
    token = lab.token("--role", "client")
    lab.network.kill(NAMENODE)
    other = lab.directory / "other"
    lab.well(NAMENODE, "init", "--dir", other, "--listen", lab.address)
    lab.network.start(NAMENODE, [*DFS, "namenode", "--config", other / "namenode.toml"], lab.directory / "other.log")
    there = ["status", "--config", other / "client.toml"]
    lab.until(lambda: lab.dfs(NAMENODE, *there).returncode == 0, "the impostor")
    assert "not of this cluster" in lab.badly("alice", *lab.joining("alice", token))
    assert nothing_left(lab, "alice")


async def test_a_recorded_join_gives_no_key(tmp_path: Path) -> None:
    """All that travels is seen, and the token becomes known afterwards."""
    seen = bytearray()

    async def carry(source: trio.SocketStream, target: trio.SocketStream) -> None:
        async for part in source:
            seen.extend(part)
            await target.send_all(part)
        await target.send_eof()

    async with real_cluster(tmp_path, datanodes=1, replicas=1) as cluster, trio.open_nursery() as nursery:

        async def listen(client: trio.SocketStream) -> None:
            host, _, port = cluster.namenode_address.rpartition(":")
            async with await trio.open_tcp_stream(host, int(port)) as server, trio.open_nursery() as both:
                both.start_soon(carry, client, server)
                both.start_soon(carry, server, client)

        (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        nursery.start_soon(trio.serve_listeners, listen, [listener])
        token = tokens.parse(tokens.issue(MASTERS, Role.NODE, "", "", int(time.time()) + 600))
        found = await joining.join(f"127.0.0.1:{listener.socket.getsockname()[1]}", token, "n7")
        nursery.cancel_scope.cancel()
    assert found.key == MASTERS.issue(Role.NODE, "n7")
    secrets = [*found.key.secrets.values(), *found.masters.by_realm()[keys.DATANODE].values(), *token.secrets.values()]
    for secret in secrets:
        assert secret not in seen and base64.b64encode(secret).rstrip(b"=") not in seen
    for at in range(len(seen)):  # with the token's secret, wherever the answer begins
        answer = bytes(seen[at : at + len(keys.render(found)) + _SEAL_BYTES])
        with pytest.raises(errors.NotPermitted):
            sealing.Receiver().open(answer, token.secrets[keys.NAMENODE], tokens.CONTEXT)


# --- rotation -------------------------------------------------------------------------------------------

USER: Final = """
import os, signal, sys, dfs
end = []
signal.signal(signal.SIGTERM, lambda *_: end.append(1))
number = 0
with dfs.connect() as fs:
    while not end:
        data = os.urandom(50_000)
        with fs.open(f"/work-{number % 20}", "wb") as file:
            file.write(data)
        with fs.open(f"/work-{number % 20}", "rb") as file:
            assert file.read() == data
        number += 1
        print(number, flush=True)
"""


@contextlib.contextmanager
def user_at_work(lab: Lab, name: str) -> Iterator[Callable[[], int]]:
    """A program that writes and reads all the time, and sees no error; gives how many rounds it has done."""
    log = lab.directory / "user.out"
    environment = {**os.environ, "DFS_CONFIG": str(lab.etc(name) / "client.toml")}
    with log.open("wb") as out, (lab.directory / "user.err").open("wb") as err:
        argv = lab.network.within(name, [sys.executable, "-c", USER])
        process = subprocess.Popen(argv, env=environment, stdout=out, stderr=err)
        try:

            def rounds() -> int:
                assert process.poll() is None, (lab.directory / "user.err").read_text()
                return len(log.read_text().splitlines())

            lab.until(lambda: rounds() > 0, "a user at work")
            yield rounds
            process.send_signal(signal.SIGTERM)
            assert process.wait(PATIENCE_S) == 0, (lab.directory / "user.err").read_text()
        finally:
            process.kill()
            process.wait()


def generation(path: Path) -> int:
    return keys.load_key(path).id.generation


def test_keys_rotate_under_load_and_the_old_ones_end(cluster: Lab) -> None:
    lab = cluster
    old = lab.directory / "old"
    shutil.copytree(lab.etc("alice"), old)
    with user_at_work(lab, "alice") as rounds:
        assert "generation 2" in lab.well(NAMENODE, "key", "rotate")
        lab.until(lambda: generation(lab.etc("alice") / "client.key") == 2, "the client's new key")
        lab.until_nodes(lambda file: file.key is not None and file.key.id.generation == 2, "have its new key")
        assert keys.load(lab.node_key("n1")).masters.generations == (1, 2)
        assert lab.node_key("n1").stat().st_mode & 0o777 == 0o600
        assert "Generation 2: in use" in lab.status() and "Generation 1: old" in lab.status()
        lab.well(NAMENODE, "key", "retire", "1")
        lab.until_nodes(lambda file: file.masters.generations == (2,), "forget generation 1")
        before = rounds()
        lab.until(lambda: rounds() > before + 3, "work after the retirement")
    assert "which was retired" in lab.badly("alice", "ls", "/", "--config", old / "client.toml")


def test_what_was_renewed_is_there_after_restarts(cluster: Lab) -> None:
    lab = cluster
    lab.well(NAMENODE, "key", "rotate")
    lab.until_nodes(lambda file: file.key is not None and file.key.id.generation == 2, "have its new key")
    lab.well("alice", "ls", "/")  # gets the newer key on the way
    lab.well(NAMENODE, "key", "retire", "1")
    data = upload(lab, "alice", "/file")
    for node in ("n1", "n2", NAMENODE):
        lab.network.kill(node)
    for node in (NAMENODE, "n1", "n2"):
        lab.start(node)
    lab.until_namenode()
    lab.until_up("n1", "n2")
    assert download(lab, "alice", "/file") == data


def test_a_new_generation_waits_for_every_datanode_that_lives(cluster: Lab) -> None:
    lab = cluster
    lab.network.cut("n2")
    lab.well(NAMENODE, "key", "rotate")
    lab.until(lambda: "Waiting for DataNodes n2" in lab.status(), "n1's word")
    assert generation(lab.etc(NAMENODE) / "admin.key") == 1
    said = lab.badly(NAMENODE, "key", "retire", "1")
    assert "still used by node n2" in said and "--force" in said
    lab.network.join("n2")
    lab.until(lambda: "Generation 2: in use" in lab.status(), "the new generation")
    lab.well("alice", "ls", "/")
    assert generation(lab.etc("alice") / "client.key") == 2


# --- revocation -----------------------------------------------------------------------------------------


def test_a_revoked_key_is_refused_everywhere_until_it_is_restored(cluster: Lab) -> None:
    lab = cluster
    data = upload(lab, "alice", "/file")
    lab.well(NAMENODE, "key", "revoke", "alice")
    assert "was revoked" in lab.badly("alice", "ls", "/")
    assert "Revoked: client alice" in lab.status()
    lab.until_nodes(lambda file: bool(file.revoked), "hear of it")
    lab.network.kill(NAMENODE)  # it does not forget
    lab.start(NAMENODE)
    lab.until_namenode()
    assert "was revoked" in lab.badly("alice", "ls", "/")
    lab.well(NAMENODE, "key", "restore", "alice")
    lab.until_nodes(lambda file: not file.revoked, "hear that it is over")
    assert download(lab, "alice", "/file") == data


def test_who_is_revoked_is_cut_off_in_the_middle_of_his_work(cluster: Lab) -> None:
    lab = cluster
    with pytest.raises(AssertionError, match="was revoked"), user_at_work(lab, "alice") as rounds:
        lab.well(NAMENODE, "key", "revoke", "alice")
        lab.until(lambda: rounds() < 0, "the end of the work")


def test_who_revokes_a_name_that_nobody_has_is_told_so(cluster: Lab) -> None:
    slip = cluster.dfs(NAMENODE, "key", "revoke", "n1")
    assert (slip.returncode, slip.stdout.startswith("the key of client n1 is refused")) == (0, True)
    assert "nobody was seen with the key of client n1" in slip.stderr and "that of node n1 (--role)" in slip.stderr
    assert cluster.dfs(NAMENODE, "key", "revoke", "alice").stderr == ""


def test_who_revokes_a_datanodes_key_is_told_what_else_is_to_be_done(cluster: Lab) -> None:
    told = cluster.well(NAMENODE, "key", "revoke", "n9", "--role", "node")
    assert "pass for anybody at the DataNodes" in told and "`dfs key rotate`" in told


def test_an_admin_does_not_revoke_the_key_that_he_uses(cluster: Lab) -> None:
    assert "use another admin's" in cluster.badly(NAMENODE, "key", "revoke", "admin", "--role", "admin")
