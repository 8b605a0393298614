"""The YAML tree, and the two functions that turn it into objects.

This is the one folder under the root with an `__init__.py`: Hydra's `pkg://imtok.configs` needs it.
"""
