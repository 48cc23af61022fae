"""Every setting, what it means, which combinations are refused, and how words become a `Config`."""
