"""The adversary and its parts."""
