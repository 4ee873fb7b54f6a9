"""Measures a running cluster for ``dougctl bench``. Histograms and plans are pure; ``load`` sends requests."""
