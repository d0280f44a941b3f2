"""From the trials of a search to one bundle with an honest score.

In the order of the work: ``models`` and ``following`` say which trials are considered,
``candidates`` what each of them predicts, ``drafts`` which models are made of them, ``building``
which one is taken, and ``reasons`` why. ``workers`` starts on the cluster what ``tasks`` describes.
"""

import search.trials  # noqa: F401  # its settings come before any import of Ray
