"""Networks that turn images into features, and what can be read off features."""
