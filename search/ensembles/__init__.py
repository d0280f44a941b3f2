"""From the trials of a search to one bundle with an honest score.

In the order of the work: ``models`` and ``folds`` say which trials are considered, ``candidates``
what each of them predicts, ``mixtures`` what else could be made of them, and ``building`` what is
chosen and written. ``workers`` starts on the cluster what ``tasks`` describes.
"""

import search.trials  # noqa: F401  # its settings come before any import of Ray
