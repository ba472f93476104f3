"""The stages of a run, in the order snapshot, score, partition, generate, merge: verbs over on-disk state."""
