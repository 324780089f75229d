"""From files, lists and shards to batches of decoded images."""
