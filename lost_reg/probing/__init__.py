"""What frozen features know: class probes of single tokens, linear segmentation and depth, zero-shot."""
