"""From a configuration and prepared data to trained epochs and checkpoints."""
