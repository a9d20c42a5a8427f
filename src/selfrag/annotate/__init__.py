"""Critic data and generator data: a teacher's reflection labels on other people's answers."""
