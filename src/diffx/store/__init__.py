"""Files that are whole or absent: atomic writes, the cache folder, published weights, digests."""
