"""Reports of a night: what people and other systems are told of a run when it is done."""
