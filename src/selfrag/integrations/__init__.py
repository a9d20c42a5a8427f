"""Retrievers of other frameworks taken as ours, and ours as theirs; each module an extra."""
