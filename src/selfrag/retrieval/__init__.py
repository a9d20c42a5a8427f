"""Queries to ranked passages behind one seam."""
