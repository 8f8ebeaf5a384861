"""`hpcdl demo`: from one command to a trained model, with a report of what the communication cost."""
