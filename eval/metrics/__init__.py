"""What is measured over images."""
