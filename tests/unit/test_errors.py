"""One tree of errors, each an OSError that a script knows, a sentence for a person, and a code on the wire."""

from __future__ import annotations

import copy
import errno
import pickle

import pytest

from dfs import errors
from dfs.errors import DfsError


def tree(cls: type[DfsError] = DfsError) -> list[type[DfsError]]:
    """The class and all below it."""
    return [cls, *(each for child in cls.__subclasses__() for each in tree(child))]


OURS = [each for each in tree() if each.__module__ == "dfs.errors"]


@pytest.mark.parametrize("cls", OURS, ids=lambda cls: cls.__name__)
def test_every_error_travels_as_code_and_message(cls: type[DfsError]) -> None:
    error = cls("what happened, to what: what to do")
    assert error.code == cls.__name__
    assert error.errno in errno.errorcode
    assert error.strerror == str(error) == error.message
    back = errors.from_wire(error.code, error.message)
    if cls is not DfsError:
        assert type(back) is cls
    assert back.message.endswith(error.message)


@pytest.mark.parametrize("cls", OURS, ids=lambda cls: cls.__name__)
def test_every_error_can_be_copied(cls: type[DfsError]) -> None:
    for back in (pickle.loads(pickle.dumps(cls("a sentence"))), copy.copy(cls("a sentence"))):
        assert type(back) is cls
        assert (back.message, back.errno) == ("a sentence", cls.default_errno)


@pytest.mark.parametrize(
    ("ours", "known"),
    [
        (errors.NotFound, FileNotFoundError),
        (errors.Exists, FileExistsError),
        (errors.IsADirectory, IsADirectoryError),
        (errors.NotADirectory, NotADirectoryError),
        (errors.NotPermitted, PermissionError),
        (errors.Unreachable, ConnectionError),
        (errors.DeadlineExceeded, TimeoutError),
    ],
)
def test_scripts_catch_what_they_know(ours: type[DfsError], known: type[OSError]) -> None:
    with pytest.raises(known):
        raise ours("a sentence")


def test_a_code_of_a_newer_version_is_told_with_its_name() -> None:
    error = errors.from_wire("MoonInTheWrongPhase", "wait a week")
    assert isinstance(error, errors.RemoteFault)
    assert str(error) == "MoonInTheWrongPhase: wait a week"


@pytest.mark.parametrize(
    ("cls", "number"),
    [
        (errors.NoSpace, errno.ENOSPC),
        (errors.NotEmpty, errno.ENOTEMPTY),
        (errors.NameTooLong, errno.ENAMETOOLONG),
        (errors.NoAttribute, errno.ENODATA),
        (errors.TooManySymlinks, errno.ELOOP),
        (errors.FileTooLarge, errno.EFBIG),
        (errors.DataLost, errno.EIO),
    ],
)
def test_applications_see_the_number_that_posix_has(cls: type[DfsError], number: int) -> None:
    assert cls("a sentence").errno == number
