"""Optimizers, EMA and what happens to gradients."""
