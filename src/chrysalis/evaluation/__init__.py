"""Drawn pictures held against real ones: distances, copies, and what can be said of them."""
