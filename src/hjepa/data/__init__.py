"""Images: sources, decoding, augmentation and batch order."""
