"""The cache: answers of earlier runs, which are not paid again."""
