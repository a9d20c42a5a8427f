"""Vectors of large corpora, shard by shard."""
