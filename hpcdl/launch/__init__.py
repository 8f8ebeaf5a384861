"""Starting ranks: which launcher, which flags, what went wrong. Each file is imported by its own name; nothing is imported here."""
