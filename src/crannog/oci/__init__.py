"""Image layouts of the OCI image specification: reading, rewriting, writing; no engine."""
