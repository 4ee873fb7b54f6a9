"""Planted bugs: wrong versions of single lines, and the proof that both the tests and the simulator find each.

``catalogue`` lists them, ``runner`` applies them to copies of the package and runs tests and seeds against those;
``make mutants`` is ``python -m raft_testing.mutants``. Nothing of the product is ever changed, and no setting
turns a protection off: a mutant exists only in a temporary copy.
"""
