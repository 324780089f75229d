"""Vision transformers that give patch features: the table, their weights, and test-time registers."""
