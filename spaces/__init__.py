"""Search spaces: Python functions from an Optuna trial to a TrialConfig."""
