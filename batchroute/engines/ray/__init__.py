"""The Ray engine: actors of a Ray cluster do the units."""
