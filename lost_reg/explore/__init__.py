"""A page that shows what backbones and methods make of one image, patch by patch."""
