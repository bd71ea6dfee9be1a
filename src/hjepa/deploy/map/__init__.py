"""A map of a collection: similar images lie near each other, on one page that needs no other file."""
