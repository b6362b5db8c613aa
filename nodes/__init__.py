"""The daemons: `nodes.namenode` keeps the namespace, `nodes.datanode` keeps the bytes."""
