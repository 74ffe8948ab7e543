"""Networks of others, frozen: vision encoders, autoencoders, and whether their hub answers."""
