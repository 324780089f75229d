"""The painted sample images: `data/render_samples.py` writes them."""
