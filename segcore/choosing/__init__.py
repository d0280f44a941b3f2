"""From candidates' answers to the weights of an ensemble, or to a soup."""
