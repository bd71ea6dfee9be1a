"""A pretrained encoder in use."""
