"""Programs that the tests start on several ranks, with the double in the place of CuPy."""
