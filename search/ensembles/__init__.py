"""From the trials of a search to one bundle with an honest score."""
