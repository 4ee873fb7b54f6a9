"""Fuzz targets: what each decoder of the node must hold for any bytes at all (docs/testing.md, Fuzzing).

A target is a function of bytes that ends quietly, or raises because the decoder did what it must not. No fuzzer is
needed to run one: ``tools.fuzz`` feeds them from atheris, a unit test from the corpus that is kept. Nothing of the
product imports this package.
"""
