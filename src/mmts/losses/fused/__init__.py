"""The losses in tiles: the values and gradients of the plain versions, without a (B, B) matrix in memory."""
