"""Flow decoders: images drawn from noise along a learned velocity, conditioned on the codes."""
