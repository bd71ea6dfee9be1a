"""What people do with an encoder: embed their images, search them, find duplicates."""
