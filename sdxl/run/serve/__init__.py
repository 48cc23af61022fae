"""A setting behind HTTP: OpenAI's images endpoint on the workers and batches of a measurement."""
