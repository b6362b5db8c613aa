"""The NameNode: namespace, extents, chunks and replica locations, as a state machine over SQLite.

service, datanodes, operations                            what is called from outside (async), made of `parts`
writer       group commit: one transaction at a time      (async)
machine      a command applied exactly once               (pure: database and command in, reply out)
commands/    one module a verb
transaction  what verbs do to the tables
schema       the tables, and what they mean
store        SQLite itself: the only module that imports it
queries      reads, on a connection of their own
check, explain                                            what is wrong, and why; off the event loop (async)
rescue, orphans, pathnames                                what checking and mending share
membership, sessions, repair, collector                   what the NameNode decides by itself
"""
