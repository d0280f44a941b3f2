"""The trials of a search, run by Ray: with the ensemble's tasks, the only importer of ray."""
