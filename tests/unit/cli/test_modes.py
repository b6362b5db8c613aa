"""chmod's modes do what POSIX and GNU chmod do."""

from __future__ import annotations

import pytest

from dfs.cli import modes

UMASK = 0o022


@pytest.mark.parametrize(
    ("text", "before", "after"),
    [
        ("644", 0o777, 0o644),
        ("0", 0o7777, 0o000),
        ("4755", 0o644, 0o4755),
        ("755", 0o6644, 0o755),
        ("u+rwx", 0o000, 0o700),
        ("u+rwx,g-w", 0o070, 0o750),
        ("go=", 0o777, 0o700),
        ("a=r", 0o777, 0o444),
        ("=r", 0o777, 0o444),
        ("=rw", 0o777, 0o644),
        ("+w", 0o444, 0o644),
        ("-w", 0o666, 0o466),
        ("a-w", 0o666, 0o444),
        ("+x", 0o644, 0o755),
        ("+rwx", 0o000, 0o755),
        ("a+X", 0o644, 0o644),
        ("a+X", 0o744, 0o755),
        ("u+x,a+X", 0o644, 0o755),
        ("u=rwX", 0o644, 0o644),
        ("g=u", 0o640, 0o660),
        ("o=g", 0o751, 0o755),
        ("go-u", 0o467, 0o423),
        ("u+s", 0o755, 0o4755),
        ("g+s", 0o755, 0o2755),
        ("ug+s", 0o755, 0o6755),
        ("o+s", 0o755, 0o755),
        ("+s", 0o755, 0o6755),
        ("-s", 0o6755, 0o755),
        ("+t", 0o755, 0o1755),
        ("o+t", 0o755, 0o1755),
        ("u+t", 0o755, 0o755),
        ("a-t", 0o1755, 0o755),
        ("u+r-w+x", 0o200, 0o500),
        ("u=rw,go=r", 0o000, 0o644),
        ("ugo=rwx", 0o000, 0o777),
        ("u=", 0o4777, 0o077),
        ("a=", 0o7777, 0o000),
        ("u+", 0o644, 0o644),
    ],
)
def test_a_file_gets_the_mode_that_chmod_would_give_it(text: str, before: int, after: int) -> None:
    assert oct(modes.changed(modes.parse(text), before, directory=False, umask=UMASK)) == oct(after)


@pytest.mark.parametrize(
    ("text", "before", "after"),
    [
        ("a+X", 0o644, 0o755),
        ("u=rwX,go=rX", 0o700, 0o755),
        ("755", 0o2700, 0o2755),
        ("00755", 0o2700, 0o0755),
        ("2755", 0o0700, 0o2755),
        ("1777", 0o0755, 0o1777),
        ("777", 0o1755, 0o0777),
        ("g-s", 0o2755, 0o0755),
        ("g=rx", 0o2770, 0o2750),
        ("a=rx", 0o2770, 0o2555),
    ],
)
def test_a_directory_keeps_set_id_bits_that_nobody_mentions(text: str, before: int, after: int) -> None:
    assert oct(modes.changed(modes.parse(text), before, directory=True, umask=UMASK)) == oct(after)


@pytest.mark.parametrize("text", ["", "8", "17777", "u", "rwx", "u+q", "u+rw;g-w", "u+r,", ",", "u+ug", "-1", "u+r g"])
def test_what_is_no_mode_is_refused_with_a_sentence(text: str) -> None:
    with pytest.raises(ValueError, match="not a mode"):
        modes.parse(text)


def test_type_bits_of_a_mode_play_no_part() -> None:
    assert modes.changed(modes.parse("u+x"), 0o100644, directory=False, umask=UMASK) == 0o744
