"""The tutorial's whole job as local processes over real sockets; `make demo` runs it."""
