"""Outlier tokens: their norms, linear probes, and the neurons that cause them."""
