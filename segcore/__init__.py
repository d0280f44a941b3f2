"""Semantic segmentation of aerial photographs: data, models, losses, training, ensembles."""
