"""The server under load and under attack: one module a proof; see `python -m benchmarks.soak --help`."""
