"""Training more than a head, and whether that is worth it: from the cache, end to end, or from nothing."""
