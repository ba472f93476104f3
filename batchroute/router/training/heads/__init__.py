"""Training of heads on a frozen encoder's states."""
