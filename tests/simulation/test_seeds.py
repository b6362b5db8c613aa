"""The whole cluster, simulated: 200 seeds, each half a minute, mostly of faults; and what makes that worth something.

Runs are in processes of their own: a simulated cluster has limits of its own.
"""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.simulation.mistakes import MISTAKES


def simulate(*arguments: str, hash_seed: str = "0") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tests.simulation", *arguments]
    environment = os.environ | {"PYTHONHASHSEED": hash_seed}
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=1200)


@pytest.mark.slow
def test_the_contract_holds_whatever_fails() -> None:
    done = simulate("--seeds", "200", "--jobs", str(min(8, os.cpu_count() or 1)))
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("profile", ["one-node", "storm"])
def test_a_seed_tells_the_same_story_in_every_process(profile: str) -> None:
    stories = [
        [
            line
            for line in simulate(
                "--seed", "5", "--profile", profile, "--trace", hash_seed=hash_seed
            ).stdout.splitlines()
            if not line.startswith("seed")  # says how long it took
        ]
        for hash_seed in ("1", "2")
    ]
    assert len(stories[0]) > 100
    assert stories[0] == stories[1]


def test_a_run_leaves_nothing_behind_for_the_next() -> None:
    program = (
        "from tests.simulation.run import run; a = run(5); run(6); b = run(5); assert a.lines == b.lines, 'differ'"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    ("mistake", "profile", "first"),
    [  # with a profile where the mixture takes many seeds, and from where a seed found it: any change may move that
        ("stale-copy-counts", "one-node", 60),
        ("chain-ends-early", "", 15),
        ("unverified-read", "storm", 1),
        ("mended-unwritten", "storm", 20),
        ("answer-before-commit", "storm", 1),
        ("append-at-known-end", "", 1),
        ("holds-outlive-sessions", "one-node", 1),
        ("recall-not-awaited", "", 1),
        ("doubt-ignored", "calm", 1),
        ("overtaken-answer-kept", "two-nodes", 110),
    ],
)
def test_a_planted_mistake_is_found(mistake: str, profile: str, first: int) -> None:
    chosen = ["--profile", profile] if profile else []
    done = simulate("--mistake", mistake, "--first", str(first), "--seeds", "120", "--jobs", "2", *chosen)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_can_be_planted_in_the_code_as_it_is(mistake: str) -> None:
    """One that cannot be called is found at once, by its crash: that says nothing."""
    plant = f"from tests.simulation.mistakes import MISTAKES; MISTAKES[{mistake!r}]()"
    done = subprocess.run([sys.executable, "-c", plant], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
