"""`hpcdl bench`: what this cluster does with the package, as a table, a JSON line and a plot. Measured, never assumed."""
