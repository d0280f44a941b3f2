"""From the files of a data set to ``PreparedData``, which trainings read."""
