"""From what a user names to things that work: engines, indexes, teachers, systems."""
