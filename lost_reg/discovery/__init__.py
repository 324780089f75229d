"""Discovery methods: features of a patch grid in, masks and boxes out. Tensors only: no files, no pixels."""
