"""The simulation by hand.

    python -m tests.simulation --seeds 1000 [--first 5000] [--jobs 2]     many runs; the seeds that fail, and why
    python -m tests.simulation --seed 17 [--trace]                        one run, as a story
    python -m tests.simulation --mistake no-fsync                         how many seeds it takes to find a mistake

Ends with 1 if any run broke the contract (with a mistake: if none did).
"""

from __future__ import annotations

import argparse
import sys

from tests.simulation.run import Outcome, run  # first: it sets the limits of a simulated cluster

from tests.simulation.faults import PROFILES  # isort: skip
from tests.simulation.mistakes import MISTAKES  # isort: skip
from tests.simulation.seeds import run_all  # isort: skip


def main() -> int:
    arguments = _parser().parse_args()
    if arguments.seed is not None:
        return _one(arguments)
    seeds = range(arguments.first, arguments.first + arguments.seeds)
    if arguments.mistake:
        return _hunt(seeds, arguments)
    failed = 0
    total_s = 0.0
    for outcome in run_all(seeds, arguments.jobs, arguments.profile):
        total_s += outcome.cpu_s
        if outcome.violations:
            failed += 1
            _show(outcome)
    print(f"{len(seeds)} seeds, {failed} failed, {total_s / len(seeds):.2f} s of processor a seed")
    return bool(failed)


def _parser() -> argparse.ArgumentParser:
    assert __doc__ is not None
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=200, help="how many")
    parser.add_argument("--first", type=int, default=1, help="the first one")
    parser.add_argument("--jobs", type=int, default=2, help="processes at once")
    parser.add_argument("--seed", type=int, help="only this one")
    parser.add_argument("--profile", default="", choices=("", *PROFILES), help="instead of the seed's choice")
    parser.add_argument("--mistake", default="", choices=("", *MISTAKES), help="plant this one, and look for it")
    parser.add_argument("--trace", action="store_true", help="print the story of the run")
    return parser


def _one(arguments: argparse.Namespace) -> int:
    if arguments.mistake:
        MISTAKES[arguments.mistake]()
    outcome = run(arguments.seed, arguments.profile)
    if arguments.trace:
        print("\n".join(outcome.lines))
    _show(outcome)
    print(f"{outcome.digest} {dict(sorted(outcome.counts.items()))}")
    return bool(outcome.violations)


def _hunt(seeds: range, arguments: argparse.Namespace) -> int:
    """Seeds until the mistake is found."""
    for tried, outcome in enumerate(run_all(seeds, arguments.jobs, arguments.profile, arguments.mistake), 1):
        if outcome.violations:
            _show(outcome)
            print(f"{arguments.mistake}: found after {tried} seeds")
            return 0
    print(f"{arguments.mistake}: not found in {len(seeds)} seeds")
    return 1


def _show(outcome: Outcome) -> None:
    verdict = "FAILED" if outcome.violations else "good"
    print(f"seed {outcome.seed} ({outcome.profile}): {verdict}, {outcome.virtual_s:.0f} s in {outcome.cpu_s:.2f} s")
    for violation in outcome.violations[:5]:
        print(f"    {violation[:600]}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
