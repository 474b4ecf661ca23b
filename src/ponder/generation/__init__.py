"""A checkpoint speaks: sampling, beams, conversation."""
