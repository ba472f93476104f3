"""What a run does, from a job to a committed output."""
