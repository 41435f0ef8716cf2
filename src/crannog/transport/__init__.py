"""TLS, bounded listeners, HTTP and clients: what moves bytes."""
