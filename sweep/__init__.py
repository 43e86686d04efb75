"""Search over training configurations: Optuna decides, Ray runs, MLflow shows."""
