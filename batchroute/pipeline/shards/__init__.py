"""A shard: the rows of one model, cut into units, and the files with their answers."""
