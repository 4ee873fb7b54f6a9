"""Fakes and checkers for tests: a disk that can be crashed, a network, a clock, and checkers of invariants.

Nothing of the product imports this package, and no image contains it. All randomness comes from a generator that the
test seeds, so that a failure can be replayed from the seed it printed.
"""

__version__ = "0.2.0"
