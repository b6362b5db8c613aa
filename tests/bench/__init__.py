"""Benchmarks: run by hand (`python -m tests.bench.NAME`), never part of the tests."""
