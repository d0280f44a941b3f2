"""From counts of pixels to scores, with their intervals."""
