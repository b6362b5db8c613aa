"""What a file's bytes may be: the checker itself, on reads that can be and reads that cannot."""

from __future__ import annotations

from tests.simulation.registers import GRAIN, Register

ZEROS = bytes(GRAIN)


def written(register: Register, called: float, returned: float, count: int = 1) -> bytes:
    """A write to the first grains that has returned, to everybody."""
    _, data = register.write(0, count, called)
    register.finish(returned, flushed=True)
    return data


def test_a_read_gives_the_last_write() -> None:
    register = Register(1)
    old, new = written(register, 1, 2), written(register, 3, 4)
    assert register.check(0, new, 5, 6, own=False) is None
    assert "write 2 had returned" in str(register.check(0, old, 5, 6, own=False))


def test_a_read_beside_a_write_gives_either_and_does_not_go_back() -> None:
    register = Register(1)
    old = written(register, 1, 2)
    _, new = register.write(0, 1, 3)
    assert register.check(0, old, 3.5, 4, own=False) is None
    assert register.check(0, new, 5, 6, own=False) is None
    assert "was read" in str(register.check(0, old, 7, 8, own=False))


def test_bytes_of_another_place_are_nobodys() -> None:
    register = Register(1)
    data = written(register, 1, 2, count=2)
    assert "nobody wrote there" in str(register.check(0, data[GRAIN:], 3, 4, own=False))


def test_a_write_back_write_is_seen_by_its_writer_only_until_it_is_flushed() -> None:
    register = Register(1)
    register.write(0, 1, 1)
    register.finish(2, flushed=False)
    assert register.check(0, ZEROS, 3, 4, own=False) is None
    assert register.check(0, ZEROS, 3, 4, own=True) is not None
    register.finish(5, flushed=True)
    assert register.check(0, ZEROS, 6, 7, own=False) is not None


def test_a_lost_write_may_be_there_or_not_for_ever() -> None:
    register = Register(1)
    old = written(register, 1, 2)
    _, lost = register.write(0, 1, 3)
    register.lose()
    for start, data in enumerate((old, lost, old, lost), 4):
        assert register.check(0, data, start, start + 0.5, own=False) is None


def test_what_was_synced_must_be_readable_until_it_is_cut_off() -> None:
    register = Register(1)
    written(register, 1, 2)
    assert not register.must_be_readable(0)
    register.synced(3)
    assert register.must_be_readable(0)
    written(register, 4, 5)  # an overwrite gives up what was durable only when it is durable itself
    assert register.must_be_readable(0)
    register.truncate(0, 6)
    assert not register.must_be_readable(0)


def lost_after_a_read(*, own: bool, from_memory: bool) -> tuple[Register, bytes]:
    """A write that somebody has read by 6, and of which nobody knows what became; and what was there before."""
    register = Register(1)
    old = written(register, 1, 2)
    _, lost = register.write(0, 1, 3)
    register.finish(4, flushed=False)
    assert register.check(0, lost, 5, 6, own=own, from_memory=from_memory) is None
    register.lose()
    return register, old


def test_what_a_writer_has_read_of_its_memory_may_be_lost_and_what_others_read_may_not() -> None:
    for from_memory in (True, False):
        register, old = lost_after_a_read(own=False, from_memory=from_memory)
        assert (register.check(0, old, 7, 8, own=False) is None) is from_memory


def test_what_is_lost_is_so_for_all_who_read_later() -> None:
    register, old = lost_after_a_read(own=True, from_memory=True)
    for begins in (7, 9):
        assert register.check(0, old, begins, begins + 1, own=False) is None
