"""The launcher: measures, attests, builds the world of a program and runs it."""
