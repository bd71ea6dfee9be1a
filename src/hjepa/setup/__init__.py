"""Build the parts of a run from its settings, the images and the machine."""
