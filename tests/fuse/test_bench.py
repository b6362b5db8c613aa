"""`dfs bench` on a directory of a mount."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from dfs.cli.bench.works import WORKS
from tests.fuse.conftest import PATIENCE_S, Cluster, Mount

pytestmark = pytest.mark.fuse

SMALL = ("--size", "3M", "--files", "8", "--seconds", "0.5")


def test_every_line_is_measured_and_the_mount_and_the_daemons_are_watched(cluster: Cluster, here: Path) -> None:
    found = json.loads(cluster.dfs("bench", here, "--json", *SMALL).stdout)
    assert [line["name"] for line in found["lines"]] == [work.name for work in WORKS]
    assert found["namenode"] == cluster.namenode()
    for line in found["lines"]:
        assert line["operations"] > 0, line
        assert {share["what"] for share in line["busy"]} >= {"client CPU", "mount CPU", "NameNode disk", "n1 disk"}
    assert os.listdir(here) == []


def test_a_mount_that_takes_no_changes_is_refused_in_a_sentence(cluster: Cluster, mount: Mount) -> None:
    readonly = mount(options="ro,allow_other")
    said = cluster.dfs("bench", readonly, *SMALL, status=1).stderr
    assert said.startswith("dfs: a benchmark writes")
    assert "read-only" in said
    assert len(said.splitlines()) == 1


def test_a_directory_of_another_file_system_is_measured_to_compare(cluster: Cluster, tmp_path: Path) -> None:
    done = cluster.dfs("bench", tmp_path, "--json", "--only", "create", *SMALL)
    (line,) = json.loads(done.stdout)["lines"]
    assert line["operations"] == 8
    assert "in no mount" in done.stderr


def test_an_interrupted_one_leaves_nothing(cluster: Cluster, here: Path) -> None:
    argv = [sys.executable, "-m", "dfs.cli", "bench", str(here), "--seconds", "600"]
    process = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=cluster.environment)
    try:
        while not os.listdir(here):
            assert process.poll() is None
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=PATIENCE_S)
        assert process.returncode == 128 + signal.SIGINT, said
        assert os.listdir(here) == []
    finally:
        process.kill()
        process.wait()
