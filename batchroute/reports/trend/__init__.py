"""The trend over several nights."""
