"""The FUSE driver: a cluster, or a directory of it, as a local directory.

    operations    what pyfuse3 calls, translated into `dfs.client`
    handles       open files and directories, by the numbers that the kernel knows
    options       what `-o` may say
    process       one mount from beginning to end
    guard         what is left when a mount is killed, and sees to that nobody waits for it
    farewell      what it becomes, to end the mount's session
    __main__      `python -m mount`, which `dfs mount` starts

It translates: inode numbers are the cluster's, attributes become `EntryAttributes`, `dfs.errors` become errno. Nothing
is decided here, and nothing kept that another mount could change: the kernel is told to ask again each time.
"""
