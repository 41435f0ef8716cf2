"""What a program is: its MRENCLAVE, from its files as the loader takes them and its settings."""
