"""Benchmarks: each module has ``run() -> dict``; ``python -m benchmarks`` runs the quick ones."""
