"""This package measured on your machine, next to plain PyTorch and other baselines: `python -m benchmarks --help`."""
