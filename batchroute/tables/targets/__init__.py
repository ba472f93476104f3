"""Tables that answers are loaded into."""
