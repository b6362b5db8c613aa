"""The `dfs` command line: files, transfers, the cluster, and the local cluster."""
