"""The image builder's parts that need no engine."""
