"""Flow decoders: pictures drawn from noise along a learned velocity, steered by the codes."""
