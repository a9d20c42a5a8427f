"""Measuring: systems answer the questions of a task, records first, numbers from records."""
