"""The DataNode: keeps chunks in the directories of one machine, and serves them.

Bottom up: `disk` (files), `index` (a chunk's checksums), `journal` (what was appended last), `store` (the chunks of one
directory), `volumes` (all directories of a node); `service` is what is called from outside, `agent` what is said to the
NameNode. docs/modules.md says of each module what it is.
"""
