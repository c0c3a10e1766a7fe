"""Images and videos: which files they are, and how they are decoded."""
