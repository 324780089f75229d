"""Vision transformers as sources of patch features: the table, their weights, and test-time registers."""
