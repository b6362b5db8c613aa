"""The package and its units under a real systemd, in a container of its own.

One container for the file, each test finds the cluster up and leaves it up: NameNode, three DataNodes, two mounts.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.systemd.container import Container, fresh, missing

pytestmark = [pytest.mark.fuse, pytest.mark.slow]

DATANODES = ("dfs-datanode", "dfs-datanode@a", "dfs-datanode@b")
MOUNT = "dfs-mount@mnt-dfs"
ALL = ("dfs-namenode", *DATANODES, MOUNT)

SETUP = r"""
mkdir -p /srv/dfs/a /srv/dfs/b /srv/dfs/c /mnt/away /mnt/fstab
chown dfs: /srv/dfs/*
cd /etc/dfs
dfs key init --tls    # the units must allow what it needs
dfs key add mounts --keys cluster.keys --out client.key
for node in a b c; do dfs key add $node --role node --keys cluster.keys; done
chown dfs: cluster.keys [abc].key
cat >/etc/dfs/namenode.toml <<END
state_dir = "/var/lib/dfs/namenode"
END
datanode() {
    printf 'node = "%s"\ndirectories = ["/srv/dfs/%s"]\nlisten = "127.0.0.1:%s"\nreserve_bytes = 0\n' $1 $1 $2
}
datanode a 9411 >/etc/dfs/datanode-a.toml
datanode b 9412 >/etc/dfs/datanode-b.toml
datanode c 9401 >/etc/dfs/datanode.toml
echo 'namenode = "127.0.0.1:9400"' >/etc/dfs/client.toml
cat >>/etc/fstab <<END
127.0.0.1:1:/ /mnt/away dfs _netdev,nofail,x-systemd.mount-timeout=10,allow_other 0 0
127.0.0.1:9400:/ /mnt/fstab dfs _netdev,nofail,x-systemd.mount-timeout=30,x-systemd.after=dfs-namenode.service 0 0
END
cd /
systemctl enable dfs.target dfs-namenode dfs-datanode dfs-datanode@a dfs-datanode@b dfs-mount@mnt-dfs
"""

THREE_UP = "systemctl show --value --property=StatusText dfs-namenode | grep '3 of 3 DataNodes up'"


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Container]:
    reason = missing()
    if reason and os.environ.get("DFS_REQUIRE_FUSE") == "1":
        pytest.fail(f"DFS_REQUIRE_FUSE=1, but {reason}")
    if reason:
        pytest.skip(reason)
    with fresh(tmp_path_factory.mktemp("machine")) as container:
        container.configure(SETUP)
        container.boot()
        yield container


@pytest.fixture(autouse=True)
def _whole(machine: Container) -> None:
    """Each unit is up, the NameNode has all DataNodes."""
    machine.until(f"systemctl is-active {' '.join(ALL)} && {THREE_UP}")


def unit(machine: Container, name: str, what: str) -> str:
    return machine.run(f"systemctl show --value --property={what} {name}").strip()


def test_the_machine_boots_although_a_cluster_in_fstab_is_away(machine: Container) -> None:
    machine.until("systemctl is-active mnt-fstab.mount")
    failed = machine.run("systemctl --failed --plain --no-legend").split()
    assert failed[:1] == ["mnt-away.mount"]
    assert "no NameNode at 127.0.0.1:1" in machine.run("journalctl --output=cat --unit=mnt-away.mount")
    assert machine.run("systemctl is-active multi-user.target").strip() == "active"


def test_units_are_ready_when_they_serve_and_say_how_they_are(machine: Container) -> None:
    assert unit(machine, "dfs-namenode", "StatusText").startswith("serving ")
    for name in DATANODES:
        assert unit(machine, name, "StatusText").startswith("registered at 127.0.0.1:9400, ")
    assert unit(machine, MOUNT, "StatusText") == "mounted at /mnt/dfs"
    for name in ALL:
        assert machine.run(f"ps -o user= -p {machine.main_pid(name)}").strip() == ("root" if name == MOUNT else "dfs")


@pytest.mark.parametrize("name", ["dfs-namenode", "dfs-datanode", "dfs-datanode@a"])
def test_the_daemons_are_confined(machine: Container, name: str) -> None:
    """`systemd-analyze security` fails above the threshold, which is in tenths."""
    machine.run(f"systemd-analyze security --no-pager --threshold=20 {name}.service")


def test_both_mounts_show_one_directory(machine: Container) -> None:
    machine.run("echo one >/mnt/dfs/both && sync /mnt/dfs/both && [ $(cat /mnt/fstab/both) = one ]")


def test_after_a_reboot_everything_is_up_again_and_was_stopped_in_order(machine: Container) -> None:
    machine.run("head -c 3000000 /dev/urandom >/mnt/dfs/kept && sync /mnt/dfs/kept")
    before = machine.run("sha256sum /mnt/dfs/kept")
    machine.reboot()
    machine.until(THREE_UP)
    assert machine.run("sha256sum /mnt/dfs/kept") == before
    log = machine.run("journalctl --output=cat --boot=-1 --unit='dfs-*'")
    assert "Failed with result" not in log, "\n".join(line[:300] for line in log.splitlines())
    machine.run("for unit in dfs-datanode@a dfs-datanode@b dfs-datanode; do systemctl stop $unit; done")
    machine.run("ls /srv/dfs/a/clean /srv/dfs/b/clean /srv/dfs/c/clean")
    machine.run("systemctl start dfs-datanode dfs-datanode@a dfs-datanode@b")


@pytest.mark.parametrize("name", ALL)
def test_a_daemon_that_is_killed_comes_back(machine: Container, name: str) -> None:
    killed = machine.main_pid(name)
    write = f"echo {name} | dd of=/mnt/dfs/killed conv=fsync status=none"  # says so if it fails; a shell's `>` does not
    machine.run(f"{write} && kill -KILL {killed}")
    machine.until(f"systemctl is-active {name} && [ $(systemctl show --value --property=MainPID {name}) != {killed} ]")
    machine.until(f"[ $(cat /mnt/dfs/killed) = {name} ]")


@pytest.mark.parametrize("name", ["dfs-namenode", "dfs-datanode", MOUNT])
def test_the_watchdog_ends_a_daemon_that_hangs(machine: Container, name: str) -> None:
    machine.run(
        f"""
        mkdir -p /run/systemd/system/{name}.service.d
        printf '[Service]\\nWatchdogSec=3\\nTimeoutAbortSec=5\\n' >/run/systemd/system/{name}.service.d/soon.conf
        systemctl daemon-reload
        systemctl restart {name}
        """
    )
    stopped = machine.main_pid(name)
    machine.run(f"kill -STOP {stopped}")
    machine.until(f"systemctl is-active {name} && [ $(systemctl show --value --property=MainPID {name}) != {stopped} ]")
    assert "watchdog" in machine.run(f"journalctl --output=cat --unit={name} | grep -i watchdog").lower()
    machine.run(f"rm -r /run/systemd/system/{name}.service.d && systemctl daemon-reload && systemctl restart {name}")


def until_restarted(machine: Container, before: dict[str, int]) -> None:
    for name, pid in before.items():
        machine.until(f"systemctl is-active {name} && [ $(systemctl show --value --property=MainPID {name}) != {pid} ]")


def test_a_namenode_goes_on_from_a_copy_as_readme_has_it(machine: Container) -> None:
    machine.run("echo precious >/mnt/dfs/precious && sync /mnt/dfs/precious")
    machine.run(
        """
        dfs key add operator --role admin --keys /etc/dfs/cluster.keys --out /root/operator.key
        DFS_KEY=/root/operator.key dfs backup /root/copy
        """
    )
    machine.run(f"systemctl stop {MOUNT} && umount /mnt/fstab")
    machine.run(
        """
        systemctl stop dfs-namenode
        mv /var/lib/dfs/namenode /var/lib/dfs/namenode.before
        install -d -o dfs -g dfs -m 700 /var/lib/dfs/namenode
        install -o dfs -g dfs -m 600 /root/copy /var/lib/dfs/namenode/namespace.sqlite
        systemctl start dfs-namenode && dfs status
        """
    )
    machine.run(f"systemctl start {MOUNT} && mount /mnt/fstab")
    machine.until("[ $(cat /mnt/dfs/precious) = precious ]")
    machine.run("echo after >/mnt/dfs/after && sync /mnt/dfs/after && [ $(cat /mnt/fstab/after) = after ]")


def test_an_upgrade_restarts_the_daemons_and_the_mount_goes_on(machine: Container) -> None:
    before = {name: machine.main_pid(name) for name in ALL}
    mount = before.pop(MOUNT)
    machine.run("sleep 1000 </dev/null >/mnt/dfs/open 2>&1 & echo $! >/run/holder")
    machine.run("apt-get install --reinstall --yes /root/dfs.deb")
    until_restarted(machine, before)
    assert machine.main_pid(MOUNT) == mount
    machine.run("kill $(cat /run/holder)")
    machine.run("echo new >/mnt/dfs/new && sync /mnt/dfs/new && [ $(cat /mnt/fstab/new) = new ]")


def test_an_upgrade_does_not_wait_for_a_namenode_that_is_away(machine: Container) -> None:
    before = {name: machine.main_pid(name) for name in DATANODES}
    machine.run("systemctl stop dfs-namenode")
    machine.run("apt-get install --reinstall --yes /root/dfs.deb")
    machine.run("systemctl start dfs-namenode")
    until_restarted(machine, before)


def test_an_upgrade_leaves_the_mode_that_an_administrator_gave_the_configuration(machine: Container) -> None:
    before = {name: machine.main_pid(name) for name in ALL if name != MOUNT}
    machine.run("chgrp dfs /etc/dfs && chmod 750 /etc/dfs && apt-get install --reinstall --yes /root/dfs.deb")
    until_restarted(machine, before)
    assert machine.run("stat --format=%a /etc/dfs").strip() == "750"


def test_a_package_is_not_removed_from_under_those_who_use_a_mount(machine: Container) -> None:
    machine.run("sleep 1000 </dev/null >/mnt/fstab/open 2>&1 & echo $! >/run/holder")
    said = machine.run("! apt-get remove --yes dfs 2>&1")
    assert "/mnt/fstab" in said
    machine.run(f"systemctl is-active {' '.join(name for name in ALL if name != MOUNT)} && [ -e /mnt/fstab/open ]")
    machine.run(f"kill $(cat /run/holder) && systemctl start {MOUNT}")


def test_a_removed_package_stops_everything_and_keeps_the_data(machine: Container) -> None:
    machine.run("echo last >/mnt/fstab/last")
    machine.run("apt-get remove --yes dfs")
    machine.run('[ -z "$(pgrep -f ^/usr/lib/dfs)" ] && [ -z "$(findmnt --types fuse.dfs)" ]')
    machine.run("[ -z \"$(find /etc/systemd/system -path '*.wants/dfs*')\" ]")
    machine.run("ls /srv/dfs/a/clean /srv/dfs/b/clean /srv/dfs/c/clean /var/lib/dfs/namenode")
    machine.run("apt-get install --yes /root/dfs.deb")
    machine.run(f"systemctl enable --now dfs.target {' '.join(ALL)}")
    machine.until("[ $(cat /mnt/dfs/both) = one ] && [ $(cat /mnt/dfs/last) = last ]")
