"""Frozen vision models that losses and evaluation compare with; never exported."""
