"""Discovery from a Python program or a notebook: predictions that draw and convert themselves."""
