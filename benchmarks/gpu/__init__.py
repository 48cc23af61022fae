"""The measuring session on a rented GPU: steps, the driver that runs them, and the payload."""
