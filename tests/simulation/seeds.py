"""Many runs, on several processors: each worker is a new process that does nothing but simulate."""

from __future__ import annotations

import multiprocessing
from collections import Counter
from collections.abc import Iterator, Sequence

from dfs.daemon import collect_seldom
from tests.simulation.run import Outcome, run


def run_all(seeds: Sequence[int], jobs: int, profile: str = "", mistake: str = "") -> Iterator[Outcome]:
    """Outcomes as they come, without their lines: a failing seed is run again to see them.

    With a `mistake`, one of `mistakes.MISTAKES`, the workers' code has it.
    """
    with multiprocessing.get_context("spawn").Pool(jobs, _begin, (profile, mistake)) as pool:
        yield from pool.imap_unordered(_run, seeds, chunksize=1)


_profile = ""


def _begin(profile: str, mistake: str) -> None:
    global _profile
    _profile = profile
    collect_seldom()  # collections took a sixth of the time
    if mistake:
        from tests.simulation.mistakes import MISTAKES

        MISTAKES[mistake]()


def _run(seed: int) -> Outcome:
    try:
        return run(seed, _profile)._replace(lines=[])
    except Exception as error:  # noqa: BLE001 - a run that breaks is a finding too, and the others go on
        return Outcome(seed, _profile, [f"the simulation itself broke: {error!r}"], "", Counter(), 0.0, 0.0, [])
