"""The losses in tiles on an NVIDIA GPU, as Triton kernels."""
