"""What happens around updates: one idea a file, each works without the others."""
