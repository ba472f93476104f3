"""Ray: the same units of work on the actors of a cluster."""
