"""Distributed hyperparameter search over segcore: Ray Tune, Optuna, MLflow."""
