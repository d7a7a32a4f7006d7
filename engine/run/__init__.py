"""One run: its plan, its directory, and the labelling of one lease after another. No Ray."""
