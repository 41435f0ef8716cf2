"""The client API on 8081: routes, who may call them, errors to statuses."""
