"""Published files into the store."""
