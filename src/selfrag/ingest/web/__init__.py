"""Pages fetched over HTTP."""
