"""hpcdl on device arrays, on a machine without a GPU: a double of CuPy's interface, and the suite that runs on it."""
