"""Shows: MLflow's runs as a projection of the event log."""
