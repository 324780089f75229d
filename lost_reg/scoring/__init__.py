"""From run folders to numbers: CorLoc, comparisons, statistics, published results."""
