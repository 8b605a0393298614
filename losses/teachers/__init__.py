"""Frozen networks that know what pictures mean, for losses and for evaluation; never exported."""
