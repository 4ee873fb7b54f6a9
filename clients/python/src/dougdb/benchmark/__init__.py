"""Measuring a running cluster: ``dougctl bench``. Histograms and plans are pure; ``load`` sends."""
