"""The report: one HTML page on runs, sweeps and artifacts that opens from disk."""
