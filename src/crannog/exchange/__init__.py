"""The messages between launcher, LAS and CAS, and both ends of each exchange. No I/O."""
