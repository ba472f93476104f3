"""Storage: folders with create-only puts, and the work folder, its units and receipts, and the manifest in them."""
