"""Masks of objects: on a grid of patches or of pixels, and sharpened from the one to the other."""
