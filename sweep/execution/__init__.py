"""Runs trials: Ray, its machines, and what happens inside a worker."""
