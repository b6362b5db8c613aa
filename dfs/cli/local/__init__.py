"""A supervised cluster on this machine: `dfs up`, `dfs restart` and `dfs down`."""
