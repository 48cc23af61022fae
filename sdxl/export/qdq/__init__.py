"""Q and DQ nodes in an exported graph, by editing its file."""
