"""Several machines on one, for a real ``ray up``: see ``machines.py``."""
