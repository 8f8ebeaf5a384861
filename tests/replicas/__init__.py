"""Data-parallel training with PyTorch: n ranks against one process on the joined batch."""
