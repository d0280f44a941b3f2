"""A run on disk: its options, folder, storage, study, trials and result."""
