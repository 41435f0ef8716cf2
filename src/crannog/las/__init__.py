"""The local attestation service of a node: says what a process is, and signs it."""
