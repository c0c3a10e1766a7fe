"""The losses in tiles: the same values and gradients as the plain versions, without a (B, B) matrix in memory."""
