"""Runs on disk: the session around the training loop, logging, checkpoints and resuming."""
