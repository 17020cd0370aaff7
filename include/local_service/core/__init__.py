"""The behaviour and the state of the service. Knows nothing of HTTP."""
