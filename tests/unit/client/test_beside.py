"""How many files are owned at once follows what is done in the directory."""

from __future__ import annotations

from dfs import limits
from dfs.client.beside import Beside
from dfs.types import Ino

DIRECTORY = Ino(1)
FIRST, MOST = limits.OWNED_AT_ONCE_FIRST, limits.OWNED_AT_ONCE_MAX


def change(beside: Beside, files: list[int], owned: set[int], ino: int) -> int:
    """One file, of `files` in their order, is changed; how many were asked for. `owned` are those that are ours."""
    if ino in owned:
        beside.changed(DIRECTORY, Ino(ino))
        return 0
    wanted = beside.wanted(DIRECTORY, Ino(ino))
    start = files.index(ino)
    given = [each for each in files[start:] + files[:start] if each not in owned][:wanted]
    owned.update(given)
    if wanted:
        beside.came(DIRECTORY, Ino(ino), [Ino(each) for each in given])
    return wanted


def test_all_of_many_files_are_asked_for_with_few_questions() -> None:
    beside, files, owned = Beside(), list(range(2000)), set[int]()
    asked = [count for count in (change(beside, files, owned, ino) for ino in files) if count]
    assert asked[:3] == [FIRST, 2 * FIRST, 4 * FIRST]
    assert max(asked) == MOST and len(asked) < 20


def test_the_first_file_is_changed_alone() -> None:
    assert Beside().wanted(DIRECTORY, Ino(5)) == 0


def test_one_file_time_and_again_asks_for_no_other() -> None:
    beside = Beside()
    assert [beside.wanted(DIRECTORY, Ino(5)) for _ in range(50)] == [0] * 50


def test_files_here_and_there_that_others_want_back_are_asked_for_ever_more_seldom() -> None:
    beside, files = Beside(), list(range(1000))
    asked = 0
    for number in range(500):  # each time others have looked at all of them again
        asked += change(beside, files, set(), number * 37 % 1000)
    assert asked < 500


def test_what_cannot_be_had_is_asked_for_ever_more_seldom() -> None:
    beside, asked = Beside(), 0
    for number in range(500):
        wanted = beside.wanted(DIRECTORY, Ino(number))
        asked += bool(wanted)
        if wanted:
            beside.came(DIRECTORY, Ino(number), [])
    assert asked < 12
