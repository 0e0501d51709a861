"""Drawn images held against real ones: distances, copies, and what can be said of them."""
