"""A page of runs that opens from disk."""
