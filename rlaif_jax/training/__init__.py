"""Optimise and persist: optimiser, train step, checkpoints, metrics, loop."""
