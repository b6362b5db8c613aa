"""`dfs bench`: how fast this cluster is from here, line by line, and what limits each.

figures     what was timed: rates and percentiles                    (pure)
limiting    what was busy meanwhile, and what of it was the limit    (pure)
works       the lines of the table: what is done, over a `Target`
target      a directory to measure in: `api` through the Python API, `posix` through system calls
readings    who has used how much so far: asks the daemons, a mount, and this machine
report      lines for people, an object for programs                 (pure)
command     the verb
"""
