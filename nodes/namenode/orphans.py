"""Rows that belong to something that is no more: one table of what refers to what, for the check and for the mending.

Rows of a session that has ended are its end's to remove, in several commands: while that is under way they are no
orphans. Who asks knows which sessions those are.
"""

from __future__ import annotations

from typing import Final, NamedTuple


class Orphan(NamedTuple):
    """Rows of `table` whose `column` is no `owner_column` of `owner`. Finding them needs an index on `column`."""

    table: str
    column: str
    owner: str
    owner_column: str
    what: str
    """What the rows are, `{}` standing for the value of `column`."""

    @property
    def kind(self) -> str:
        return f"{self.table}.{self.column}"

    @property
    def orphaned(self) -> str:
        """The condition in SQL, of rows of `table` called `t`."""
        return f"NOT EXISTS (SELECT 1 FROM {self.owner} o WHERE o.{self.owner_column} = t.{self.column})"


ORPHANS: Final = (
    Orphan("xattr", "ino", "inode", "ino", "extended attributes are of inode {}"),
    Orphan("hold", "ino", "inode", "ino", "holds are of inode {}"),
    Orphan("hold", "session", "session", "session", "holds are of session {}"),
    Orphan("doomed", "ino", "inode", "ino", "removals under way are of inode {}"),
    Orphan("trim", "chunk", "chunk", "chunk", "freed ranges are of chunk {:x}"),
    Orphan("replica", "chunk", "chunk", "chunk", "replicas are of chunk {:x}"),
    Orphan("replica", "node", "node", "id", "replicas are on DataNode number {}"),
    Orphan("work", "node", "node", "id", "orders are to DataNode number {}"),
    Orphan("reply", "session", "session", "session", "stored replies are of session {}"),
    Orphan("inode_range", "session", "session", "session", "reserved inode numbers are of session {}"),
)

BY_KIND: Final = {orphan.kind: orphan for orphan in ORPHANS}
