"""What `-o` of a mount may say."""

from __future__ import annotations

import pytest

from dfs import errors, limits
from dfs.mountoptions import parse


def test_numbers_are_taken_as_they_are() -> None:
    found = parse(f"uid=0,gid=7,wait=1,cache={limits.CACHE_ENTRIES_MIN}")
    assert (found.uid, found.gid, found.wait_s, found.cache_entries) == (0, 7, 1, limits.CACHE_ENTRIES_MIN)


TOO_SMALL = ["wait=0", "cache=0", f"cache={limits.CACHE_ENTRIES_MIN - 1}"]
TOO_LARGE = [f"uid={2**32 - 1}", f"gid={10**14}", f"wait={10**9}", f"cache={10**12}"]


@pytest.mark.parametrize("option", [*TOO_SMALL, *TOO_LARGE])
def test_a_number_with_which_no_mount_works_is_refused(option: str) -> None:
    name, _, value = option.partition("=")
    with pytest.raises(errors.InvalidArgument, match=rf"the option {name} is from \d+ to \d+, and not {value}$"):
        parse(option)


@pytest.mark.parametrize("option", ["uid=many", "wait=-1", "wait=0.5", "gid=²"])
def test_what_is_no_number_is_refused(option: str) -> None:
    with pytest.raises(errors.InvalidArgument, match="takes a number"):
        parse(option)


@pytest.mark.parametrize("option", ["key", "key=", "wait", "cache=", "uid"])
def test_what_has_no_value_needs_one(option: str) -> None:
    name = option.removesuffix("=")
    with pytest.raises(errors.InvalidArgument, match=f"^the option {name} needs a value: {name}=...$"):
        parse(option)


def test_what_mount_8_keeps_to_itself_has_words_of_ours() -> None:
    assert parse("allow_suid,allow_dev").kernel == parse("suid,dev").kernel == {"suid", "dev"}


def test_what_the_kernel_lists_of_any_fuse_file_system_says_nothing() -> None:
    assert parse("rw,relatime,user_id=0,group_id=0,default_permissions,x-systemd.automount") == parse("")


def test_what_is_not_to_be_changed_while_it_is_mounted() -> None:
    had = parse("allow_other,wait=9,noatime,cache=4096,nosuid")
    assert parse("ro,allow_other,wait=9,suid,noexec").beyond(had) == []
    assert parse("wait=10,cache=4096,root_squash,nodiratime,dev").beyond(had) == ["nodiratime", "root_squash", "wait"]
    assert parse("noatime").beyond(parse("")) == ["noatime"]
    assert parse("ro,nosuid,noatime").changeable == ["ro", "nosuid"]
    assert parse("").changeable == ["rw"]


def test_of_opposites_the_later_one_counts() -> None:
    assert parse("ro,nodev,nosuid,noexec,rw,allow_dev,allow_suid").changeable == ["rw", "dev", "noexec", "suid"]
    assert parse("rw,allow_dev,nodev,ro").changeable == ["ro", "nodev"]
