"""From the trials of a search to one bundle with an honest score."""

import search.trials  # noqa: F401  # its settings come before any import of Ray
