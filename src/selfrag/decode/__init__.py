"""Deciding, writing and judging: the reflection algorithm itself, on numpy alone."""
