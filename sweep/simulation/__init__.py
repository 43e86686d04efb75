"""Whole sweeps on recorded learning curves, in seconds and without training."""
