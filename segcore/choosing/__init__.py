"""From candidates' answers to the model that is taken.

In the order of the work: ``pool`` holds what candidates say, ``selection`` makes models of them
(with ``factors`` for their decisions; ``soup`` makes one of weights), ``left_out`` judges each on
what was left out when it was made, and ``choice`` takes one.
"""
