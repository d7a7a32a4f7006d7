"""A page to look at a run's labels with, and to decide about them: opens from disk, needs nothing."""
