"""What the command line does before it reaches a cluster: parsing, modes, listings, errors."""
