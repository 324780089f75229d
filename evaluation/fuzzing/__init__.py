"""Files to try the image reader with: whole ones, damaged ones, and bombs."""
