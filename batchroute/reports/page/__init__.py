"""The report of one night as a page: HTML and Markdown."""
