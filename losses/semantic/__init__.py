"""Loss terms that compare codes with features of a teacher or with captions."""
