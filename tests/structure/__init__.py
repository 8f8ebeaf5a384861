"""The shape of the package, read from its syntax trees: who imports whom, how long files are, what is documented."""
