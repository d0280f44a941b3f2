"""Scratch, not to be kept: freeze-thaw with constants changed, as methods of search_efficiency."""
import sys
import benchmarks.search_efficiency as B
import search.forecasting.kernel as K
import search.forecasting.process as P
import search.forecasting.proposals as R
import search.forecasting.curves as C
import search.forecasting.forecast as O
import search.planning.freeze_thaw as F
import math, os
import numpy as np

NOGROW = lambda: K.SCALARS.__setitem__("growth", (1.0, 1e-3))
def relative(lo, hi):
    F.RELATIVE_GAIN = True; F.SMALLEST_GAIN, F.LARGEST_GAIN = lo, hi
def left_off():
    old = F.FreezeThaw.__init__
    def init(self, *a, seconds_left=None, **k): old(self, *a, **k)
    F.FreezeThaw.__init__ = init
def steps(lo, hi): R.STEPS = (lo, hi)
def rough():
    def m(r2): r = np.sqrt(3*r2); return (1+r)*np.exp(-r)
    def ms(r2): return -1.5*np.exp(-np.sqrt(3*r2))
    K.matern, K.matern_slope = m, ms
def lengths(a, b): K.SHARED_LENGTH, K.OWN_LENGTH = a, b
def cands(n, p, m): F.RANDOM_CANDIDATES, F.PARENTS, F.MUTANTS = n, p, m
def starts(n): F.RANDOM_STARTS = n; F.FreezeThaw.__init__.__kwdefaults__["first_trials"] = n
def weight(median, sd): K.WEIGHT = P.WEIGHT = O.WEIGHT = (median, sd)
def shortest(n):  # horizons of at least n epochs
    F.SHORTEST = n
def ei(): F.EXPECTED = True
def late(n):  # the first epoch of the horizon
    pass
VARIANTS = {
    "ft recipe": lambda: (NOGROW(), left_off()),
    "ft left": lambda: NOGROW(),
    "ft grow": lambda: None,
    "ft rel": lambda: (NOGROW(), relative(-1.3, 0)),
    "ft grow rel": lambda: relative(-1.3, 0),
    "ft fine": lambda: (NOGROW(), steps(0.02, 0.3)),
    "ft grow rel fine": lambda: (relative(-1.3, 0), steps(0.02, 0.3)),
    "ft grow rel fine rough": lambda: (relative(-1.3, 0), steps(0.02, 0.3), rough()),
    "ft ei grow fine": lambda: (ei(), relative(-9, -8.9), steps(0.02, 0.3)),
    "ft grow rel fine w1": lambda: (relative(-1.3, 0), steps(0.02, 0.3), weight(0.6, 1.5)),
}
ORIGINAL = {}
def run(job):
    # One process runs many jobs: each variant starts from clean modules.
    import importlib
    for m in (K, P, C, R, O, F): importlib.reload(m)
    B.FreezeThaw = F.FreezeThaw
    base = job.method
    for name in VARIANTS: B.METHODS[name] = B.METHODS["freeze-thaw"]
    if base in VARIANTS: VARIANTS[base]()
    return B._run(B.Job(*job))
def main():
    for name in VARIANTS: B.METHODS[name] = B.METHODS["freeze-thaw"]
    B_run = B._run
    B.RUN = run
    B.main()
if __name__ == "__main__":
    import benchmarks.variants as V
    V.main()
