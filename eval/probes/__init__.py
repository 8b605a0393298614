"""What codes know about a picture's content: probes, zero-shot classes, retrieval, likeness to a teacher."""
