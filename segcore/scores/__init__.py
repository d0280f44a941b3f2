"""From predicted and true pixels to counts, scores, and intervals of scores."""
