"""The boxes of a run in the formats of other programs."""
