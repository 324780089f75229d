"""What is learned from a run: heads, detectors, clusters."""
