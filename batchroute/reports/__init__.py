"""Reports of a night: for people and for other systems, written when a run is done."""
