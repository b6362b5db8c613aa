"""What `-o` of a mount may say."""

from __future__ import annotations

import pytest

from dfs import errors, limits
from mount.options import parse


def test_numbers_are_taken_as_they_are() -> None:
    found = parse(f"uid=0,gid=7,wait=1,cache={limits.CACHE_ENTRIES_MIN}")
    assert (found.uid, found.gid, found.wait_s, found.cache_entries) == (0, 7, 1, limits.CACHE_ENTRIES_MIN)


@pytest.mark.parametrize("option", ["wait=0", "cache=0", f"cache={limits.CACHE_ENTRIES_MIN - 1}"])
def test_a_number_with_which_no_mount_works_is_refused(option: str) -> None:
    name, _, value = option.partition("=")
    with pytest.raises(errors.InvalidArgument, match=rf"the option {name} is \d+ or more, and not {value}"):
        parse(option)


@pytest.mark.parametrize("option", ["uid=many", "cache=", "wait=-1", "wait=0.5", "gid=²"])
def test_what_is_no_number_is_refused(option: str) -> None:
    with pytest.raises(errors.InvalidArgument, match="takes a number"):
        parse(option)
