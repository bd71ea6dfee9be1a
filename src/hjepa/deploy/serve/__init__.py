"""A server: images in, vectors or neighbours out."""
