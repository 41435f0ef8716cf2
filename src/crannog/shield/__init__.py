"""The file shield: protection files, chunks, regions, and what a path is. Pure."""
