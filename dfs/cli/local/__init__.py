"""A supervised cluster on this machine: `dfs up` and `dfs down`."""
