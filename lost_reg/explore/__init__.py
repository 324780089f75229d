"""A page that shows what backbones and methods make of one image, patch by patch."""

MOST_SIDE = 1024  # pixels of an image's longer side: all features of all layers are kept
