"""From photographs to files of masks, and a record of what is done."""
