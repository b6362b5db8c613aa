"""How those who share a daemon share it: whose turn it is, and who may have more of what is scarce.

They are counted on two levels. A party is the holder of a key on one host (`dfs.rpc.Party`), its members are his
sessions or connections. Shares are those of parties: who opens more sessions or connections has not more turns, his
own have fewer. Costs are numbers of whatever the work is measured in: commands, bytes.

`Turns` is deficit round robin (Shreedhar and Varghese, 1995), as the `fq` of Linux has it. In a round each party gets
its share of work; the last item may be larger than what is left of it, and is paid for in the rounds that follow. So
large items and small ones, many members and few, get the same in the long run, and a party that wants little waits for
no more than one round of the others. Within a party, members give one item each in turn.

`Shares` divides room: a party may have as much as it leaves free (the dynamic thresholds of Choudhury and Hahne, 1998),
and a member as much as it leaves free of what its party may have. A member alone gets a third, a party of many nearly
half, and there is room left for who comes next, however much the others want.
"""

from __future__ import annotations

import enum
from collections import deque
from collections.abc import Callable, Hashable
from typing import Generic, NamedTuple, TypeVar

Item = TypeVar("Item")
Key = TypeVar("Key", bound=Hashable)


class Verdict(enum.Enum):
    """What becomes of an item whose turn it is: if it does not leave, who has his turn next."""

    TAKE = 0
    NEXT_MEMBER = 1
    NEXT_PARTY = 2
    STOP = 3


Judge = Callable[[Hashable, Hashable, int], Verdict]
"""Asked before an item would leave, with its party, member and cost."""


class _Waiting(NamedTuple, Generic[Item]):
    item: Item
    cost: int


_Line = dict[Hashable, deque[_Waiting[Item]]]
"""What the members of one party have waiting, oldest first; whose turn is next comes first."""


def _take_all(_party: Hashable, _member: Hashable, _cost: int) -> Verdict:
    return Verdict.TAKE


class Turns(Generic[Item]):
    """Items that wait. Those of one member leave in the order in which they came. `each` is a party's share of a round.

    `cost` is that of all that wait.
    """

    def __init__(self, each: int) -> None:
        self._each = each
        self._lines: dict[Hashable, _Line[Item]] = {}
        """Of parties that have something waiting; whose turn is next comes first."""
        self._spent: dict[Hashable, int] = {}
        """What parties have had in this round, and of rounds before what was more than their share."""
        self.cost = 0

    def __bool__(self) -> bool:
        return bool(self._lines)

    def has(self, party: Hashable) -> bool:
        """Whether something of this party waits."""
        return party in self._lines

    def put(self, party: Hashable, member: Hashable, item: Item, cost: int) -> None:
        self._lines.setdefault(party, {}).setdefault(member, deque()).append(_Waiting(item, cost))
        self.cost += cost

    def put_back(self, party: Hashable, member: Hashable, item: Item, cost: int) -> None:
        """As `put`, before all that the member has waiting."""
        self._lines.setdefault(party, {}).setdefault(member, deque()).appendleft(_Waiting(item, cost))
        self.cost += cost

    def remove(self, party: Hashable, member: Hashable, item: Item) -> None:
        """Of an item that waits: it waits no more."""
        line = self._lines[party]
        found = next(waiting for waiting in line[member] if waiting.item == item)
        line[member].remove(found)
        self.cost -= found.cost
        self._tidy(party, member)

    def pass_by(self, party: Hashable, cost: int) -> bool:
        """Whether something of a party need not wait: nothing of it does, and its share of the round is not used up."""
        if party in self._lines or self._spent.get(party, 0) >= self._each:
            return False
        self.charge(party, cost)
        return True

    def charge(self, party: Hashable, cost: int) -> None:
        """Count what a party had without having waited for it."""
        if cost:
            self._spent[party] = self._spent.get(party, 0) + cost

    def take(self, judge: Judge = _take_all) -> list[Item]:
        """Begin a round; what leaves in it."""
        self._spent = {party: spent - self._each for party, spent in self._spent.items() if spent > self._each}
        taken: list[Item] = []
        for party in list(self._lines):
            before = len(taken)
            verdict = self._take_turn(party, judge, taken)
            if len(taken) > before and party in self._lines:
                self._lines[party] = self._lines.pop(party)
            if verdict is Verdict.STOP:
                break
        return taken

    def _take_turn(self, party: Hashable, judge: Judge, taken: list[Item]) -> Verdict:
        """One party's turn. The verdict is the one that ended it."""
        verdict = Verdict.TAKE
        while verdict is Verdict.TAKE and party in self._lines and self._spent.get(party, 0) < self._each:
            for member, items in self._lines[party].items():
                verdict = judge(party, member, items[0].cost)
                if verdict is Verdict.TAKE:
                    taken.append(self._leave(party, member))
                if verdict is not Verdict.NEXT_MEMBER:
                    break
        return verdict

    def _leave(self, party: Hashable, member: Hashable) -> Item:
        line = self._lines[party]
        item, cost = line[member].popleft()
        self.charge(party, cost)
        self.cost -= cost
        line[member] = line.pop(member)
        self._tidy(party, member)
        return item

    def _tidy(self, party: Hashable, member: Hashable) -> None:
        line = self._lines[party]
        if not line[member]:
            del line[member]
        if not line:
            del self._lines[party]


class Shares:
    """Who has how much of a room of `all_max`. `total` is what all have."""

    def __init__(self, all_max: int) -> None:
        self.all_max = all_max
        self.total = 0
        self._parties: dict[Hashable, int] = {}
        self._members: dict[tuple[Hashable, Hashable], int] = {}

    def judge(self, party: Hashable, member: Hashable, amount: int) -> Verdict:
        """Whether a member may have so much more. Who has nothing may have what there is."""
        left = self.all_max - self.total - amount
        mine, ours = self.of(party, member), self._parties.get(party, 0)
        if not ours:
            return Verdict.TAKE if left >= 0 else Verdict.STOP
        left -= ours + amount
        if left < 0:
            return Verdict.NEXT_PARTY
        return Verdict.NEXT_MEMBER if mine and left < mine + amount else Verdict.TAKE

    def of(self, party: Hashable, member: Hashable) -> int:
        """What a member has."""
        return self._members.get((party, member), 0)

    def add(self, party: Hashable, member: Hashable, amount: int) -> None:
        self.total += amount
        _change(self._parties, party, amount)
        _change(self._members, (party, member), amount)

    def release(self, party: Hashable, member: Hashable, amount: int) -> None:
        """Give back what was added."""
        self.add(party, member, -amount)


def _change(held: dict[Key, int], key: Key, amount: int) -> None:
    """Keeps those that have something."""
    held[key] = held.get(key, 0) + amount
    assert held[key] >= 0, "more is given back than was had"
    if not held[key]:
        del held[key]
