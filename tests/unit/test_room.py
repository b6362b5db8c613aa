"""Room for bytes in work: there is some for who comes next, whatever others hold and do not give back."""

from __future__ import annotations

import trio
import trio.testing

from dfs.room import Room

FLOODER, OTHER, THIRD = "flooder", "other", "third"


class Guests:
    """Who has entered, in order."""

    def __init__(self, room: Room, nursery: trio.Nursery) -> None:
        self.inside: list[str] = []
        self._room = room
        self._nursery = nursery

    async def come(self, party: str, member: int, amount: int) -> None:
        """Somebody wants to enter; returns when nobody moves any more."""
        self._nursery.start_soon(self._enter, party, member, amount)
        await trio.testing.wait_all_tasks_blocked()

    async def _enter(self, party: str, member: int, amount: int) -> None:
        await self._room.enter(party, member, amount)
        self.inside.append(f"{party}{member}")


async def test_who_fills_his_share_keeps_nobody_else_out() -> None:
    room = Room(12)
    async with trio.open_nursery() as nursery:
        guests = Guests(room, nursery)
        for number in range(20):
            await guests.come(FLOODER, number, 1)
        assert guests.inside == [f"flooder{number}" for number in range(6)]
        await guests.come(OTHER, 1, 3)
        await guests.come(THIRD, 1, 2)
        assert guests.inside[6:] == ["other1", "third1"]
        nursery.cancel_scope.cancel()
    assert room.taken == 11


async def test_one_connection_that_gives_nothing_back_leaves_room_for_others_of_its_party() -> None:
    room = Room(12)
    async with trio.open_nursery() as nursery:
        guests = Guests(room, nursery)
        for _ in range(10):
            await guests.come(FLOODER, 1, 1)
        assert guests.inside == ["flooder1"] * 4
        await guests.come(FLOODER, 2, 1)
        assert guests.inside[4:] == ["flooder2"]
        room.leave(FLOODER, 2, 1)
        await guests.come(FLOODER, 2, 1)
        assert guests.inside[5:] == ["flooder2"]
        nursery.cancel_scope.cancel()


async def test_room_that_is_left_goes_round_among_those_who_wait() -> None:
    room = Room(4)
    async with trio.open_nursery() as nursery:
        guests = Guests(room, nursery)
        await guests.come(FLOODER, 1, 4)
        for party in (FLOODER, FLOODER, OTHER, OTHER):
            await guests.come(party, 1, 4)
        for leaver in (FLOODER, FLOODER, OTHER, FLOODER, OTHER):
            room.leave(leaver, 1, 4)
            await trio.testing.wait_all_tasks_blocked()
    assert guests.inside == ["flooder1", "flooder1", "other1", "flooder1", "other1"]
    assert room.taken == 0


async def test_who_waits_for_room_is_overtaken_by_nobody_smaller() -> None:
    room = Room(10)
    async with trio.open_nursery() as nursery:
        guests = Guests(room, nursery)
        await guests.come(FLOODER, 1, 5)
        await guests.come(OTHER, 1, 9)
        await guests.come(THIRD, 1, 1)
        assert guests.inside == ["flooder1"]
        room.leave(FLOODER, 1, 5)
        await trio.testing.wait_all_tasks_blocked()
        assert sorted(guests.inside) == ["flooder1", "other1", "third1"]


async def test_who_waits_for_much_of_his_partys_share_is_overtaken_by_no_other_of_it() -> None:
    room = Room(48)
    async with trio.open_nursery() as nursery:
        guests = Guests(room, nursery)
        for member in range(20):
            await guests.come(FLOODER, member, 1)
        await guests.come(FLOODER, 100, 8)
        for member in range(20):
            room.leave(FLOODER, member, 1)
            await guests.come(FLOODER, member, 1)
        assert "flooder100" in guests.inside
        nursery.cancel_scope.cancel()


async def test_who_waits_for_himself_keeps_no_other_of_his_party_waiting() -> None:
    room = Room(12)
    async with trio.open_nursery() as nursery:
        guests = Guests(room, nursery)
        for _ in range(5):
            await guests.come(FLOODER, 1, 1)
        assert guests.inside == ["flooder1"] * 4
        await guests.come(FLOODER, 2, 1)
        assert guests.inside[4:] == ["flooder2"]
        nursery.cancel_scope.cancel()


async def test_who_waited_for_room_and_goes_away_makes_way() -> None:
    room = Room(10)
    async with trio.open_nursery() as nursery:
        guests = Guests(room, nursery)
        await guests.come(FLOODER, 1, 5)
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as impatient:
                impatient.start_soon(room.enter, OTHER, 1, 9)
                await trio.testing.wait_all_tasks_blocked()
                await guests.come(THIRD, 1, 1)
                scope.cancel()
        await trio.testing.wait_all_tasks_blocked()
        assert guests.inside == ["flooder1", "third1"]
    assert room.taken == 6


async def test_who_is_cancelled_at_the_moment_of_his_turn_gives_it_back() -> None:
    room = Room(10)
    await room.enter(FLOODER, 1, 10)
    entered = False
    async with trio.open_nursery() as nursery:

        async def wait() -> None:
            nonlocal entered
            await room.enter(OTHER, 1, 10)
            entered = True

        nursery.start_soon(wait)
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
        room.leave(FLOODER, 1, 10)
    assert room.taken == (10 if entered else 0)
