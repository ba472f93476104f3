"""What each command does: a file for each word after `batchroute`."""
