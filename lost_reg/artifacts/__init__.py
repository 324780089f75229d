"""Outlier tokens: norms, probes, and the neurons that make them."""
