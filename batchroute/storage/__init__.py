"""Where state lives: create-only objects, and the work folder with its units, receipts and manifest."""
