"""The parts of a search's report; ``search.report`` puts them on one page."""
