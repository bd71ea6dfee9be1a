"""The life of a run on disk: the loop around the step, what it logs and saves, and how it goes on."""
