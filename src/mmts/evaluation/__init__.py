"""Ranking a split, scoring it, and comparing the scores of runs."""
