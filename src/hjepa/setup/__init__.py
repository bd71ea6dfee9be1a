"""From settings, images and a machine to the parts of a run."""
