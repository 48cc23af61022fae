"""Executors of the model; one file each, chosen by name, imported only when used."""
