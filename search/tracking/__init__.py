"""What MLflow is told, and the only part that imports mlflow."""
