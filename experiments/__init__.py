"""Experiments with this package, through its public API only."""
