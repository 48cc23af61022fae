"""One cell from configuration to record, and many of them."""
