"""From a bundle and photographs to maps and pictures."""
