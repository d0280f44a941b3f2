"""How learning curves will go on: a Gaussian process over configurations and epochs, in NumPy."""
