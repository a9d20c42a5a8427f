"""Labelled sets to generator records to trained weights."""
