"""Vision transformers as sources of patch features: the table, their weights, and test-time registers."""

DEFAULT = "dino"  # LOST's own, a ViT-S/16: finds objects in photos
