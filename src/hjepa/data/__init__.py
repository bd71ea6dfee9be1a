"""Images: where they come from, how they are read, cropped and put in order."""
