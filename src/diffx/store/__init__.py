"""Files that are whole or absent, or behind a URL: atomic writes, caches, published weights, digests."""
