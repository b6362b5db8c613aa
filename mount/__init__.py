"""The FUSE driver: the cluster as a local directory. It may import `dfs.client`; nothing imports it."""
