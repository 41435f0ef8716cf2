"""What the container images are made of, and how they are built; not part of the package."""
