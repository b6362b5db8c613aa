"""Files named by handles, as NFS servers name them: open_by_handle_at(2)."""

from __future__ import annotations

import ctypes
import errno
import os
from functools import partial
from pathlib import Path

import pytest

from tests.fuse.conftest import Mount
from tests.fuse.test_posix import opened, refused
from tests.integration.real import wait_until

pytestmark = pytest.mark.fuse

_BYTES_MAX = 128
_libc = ctypes.CDLL(None, use_errno=True)


class Handle(ctypes.Structure):
    """`struct file_handle`."""

    _fields_ = (("length", ctypes.c_uint), ("kind", ctypes.c_int), ("bytes", ctypes.c_ubyte * _BYTES_MAX))


def handle_of(path: Path) -> Handle:
    handle, mount_id = Handle(length=_BYTES_MAX), ctypes.c_int()
    if _libc.name_to_handle_at(-100, os.fsencode(path), ctypes.byref(handle), ctypes.byref(mount_id), 0):
        raise OSError(ctypes.get_errno(), "name_to_handle_at")
    return handle


def open_by_handle(mountpoint: Path, handle: Handle, flags: int = os.O_RDONLY) -> int:
    with opened(mountpoint, os.O_RDONLY) as mount:
        fd: int = _libc.open_by_handle_at(mount, ctypes.byref(handle), flags)
    if fd < 0:
        raise OSError(ctypes.get_errno(), "open_by_handle_at")
    return fd


def leads_nowhere(mountpoint: Path, handle: Handle) -> bool:
    try:
        os.close(open_by_handle(mountpoint, handle))
    except OSError as error:
        assert error.errno == errno.ESTALE
        return True
    return False


def test_a_handle_leads_to_its_file_where_the_kernel_has_forgotten_it(mount: Mount, here: Path) -> None:
    """Or has never known it, as on a mount that has just begun."""
    (here / "a/b").mkdir(parents=True)
    (here / "a/b/file").write_bytes(b"x")
    handles = {name: handle_of(here / name) for name in ("a/b", "a/b/file")}
    shown = mount()
    fd = open_by_handle(shown, handles["a/b/file"], os.O_RDWR)
    try:
        assert os.read(fd, 9) == b"x"
        os.write(fd, b"y")
    finally:
        os.close(fd)
    assert (here / "a/b/file").read_bytes() == b"xy"
    fd = open_by_handle(mount(), handles["a/b"])
    try:
        assert os.listdir(fd) == ["file"]
        assert os.readlink(f"/proc/self/fd/{fd}").endswith(f"/{here.name}/a/b")
    finally:
        os.close(fd)


def test_the_handle_of_what_was_removed_leads_nowhere(mount: Mount, here: Path) -> None:
    (here / "file").write_bytes(b"x")
    handle = handle_of(here / "file")
    shown = mount()
    with opened(here / "file", os.O_RDONLY):
        (here / "file").unlink()
    for mountpoint in (shown, here):
        wait_until(partial(leads_nowhere, mountpoint, handle))  # it is there until its last user has told that he left


def test_a_handle_leads_to_nothing_beside_the_directory_that_is_mounted(mount: Mount, here: Path) -> None:
    (here / "inside").mkdir()
    (here / "outside").write_bytes(b"x")
    (here / "inside/file").write_bytes(b"x")
    outside = handle_of(here / "outside")
    shown = mount(f"/{here.name}/inside")
    with refused(errno.ESTALE):
        open_by_handle(shown, outside)
    inside = handle_of(shown / "file")
    os.close(open_by_handle(shown, inside))
