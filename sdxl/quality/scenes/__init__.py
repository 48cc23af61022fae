"""Networks that look at scenes."""
