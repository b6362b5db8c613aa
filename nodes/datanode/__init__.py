"""The DataNode: keeps chunks in the directories of one machine, and serves them.

Bottom up: `disk` (files), `index` (a chunk's checksums), `store` (the chunks of one directory), `identity` (whose
directory it is), `volumes` (all directories of a node).
"""
