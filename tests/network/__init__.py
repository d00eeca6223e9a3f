"""Real network filesystems between real kernels: see `guests`."""
