"""What the documents say is true: their examples run, their commands are the ones that are tested."""
