"""The trials of a search, run by Ray: with the ensemble's tasks, the only importer of ray."""

import os

# What follows is read by Ray when it is imported. Nothing is sent home. A run's own files are the
# record of its results, so Tune's own loggers and snapshots would only cost time. A trial that
# failed before its first epoch has no score, and that is no reason to end the search.
# RAY_AUTH_MODE is left as it is: a cluster that Ray starts on this machine then asks everybody for
# a token.
for _name, _value in {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",
    "TUNE_GLOBAL_CHECKPOINT_S": "3600",
    "RAY_AIR_NEW_OUTPUT": "0",  # its tables are printed even when it is told to be quiet
    # A kilobyte of what may have killed a worker is printed at any setting: ``faults`` says each
    # in a line.
    "RAY_DEDUP_LOGS_SKIP_REGEX": ".",
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",
    "RAY_TRAIN_COUNT_PREEMPTION_AS_FAILURE": "1",  # the searcher itself hands out trials again
    "TUNE_WARN_THRESHOLD_S": "5",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",  # a space's relative paths mean the folder of the driver
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
}.items():
    os.environ.setdefault(_name, _value)
