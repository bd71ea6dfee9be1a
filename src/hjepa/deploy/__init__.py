"""What people do with an encoder: embed, search, find duplicates, export, serve."""
