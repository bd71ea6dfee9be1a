"""Embedding: one resumable loop, and one file per output format."""
