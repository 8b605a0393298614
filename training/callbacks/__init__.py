"""What happens around updates: one idea a file; each works without the others, in any order of the YAML."""
