"""Random runs of a part against a model of it that cannot be wrong because it is simple."""
