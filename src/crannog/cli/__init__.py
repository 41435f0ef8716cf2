"""The command line, one module per noun; each command calls the library and prints."""
