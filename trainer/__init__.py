"""Train and evaluate one face-landmark configuration; knows nothing of sweeps."""
