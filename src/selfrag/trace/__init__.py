"""Recorded searches: written, read back and scored again."""
