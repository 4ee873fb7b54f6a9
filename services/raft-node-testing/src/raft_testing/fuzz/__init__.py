"""Fuzz targets: the properties that each decoder of the node must have for all bytes (docs/testing.md, Fuzzing).

A target is a function of bytes that returns, or raises because the decoder broke a property. No fuzzer is
needed to run one: ``tools.fuzz`` feeds them from atheris, a unit test from the corpus that is kept. Nothing of the
product imports this package.
"""
