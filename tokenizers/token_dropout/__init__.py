"""Token dropout: which tokens the decoder may see, so that a prefix decodes too."""
