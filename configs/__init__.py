"""Hydra configs (YAML), and their composition into one dict.

This is the one folder under the root with an `__init__.py`: Hydra's `pkg://imtok.configs` needs it.
"""
