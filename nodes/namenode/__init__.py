"""The NameNode: namespace, extents, chunks and replica locations, as a state machine over SQLite.

What is called from outside is in `service`, `datanodes` and `operations`. What is to be changed is a command: `writer`
commits many at a time, `machine` applies each exactly once, by its verb's module in `commands/`, through `transaction`,
to the tables of `schema`. `queries` reads, on a connection of its own; `store` is SQLite itself. By themselves decide
`sessions`, `leases`, `membership`, `replication` and `collector`. docs/modules.md says of each module what it is.
"""
