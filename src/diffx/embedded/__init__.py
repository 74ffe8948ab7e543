"""The small networks of the embedded data: a teacher for REPA, two feature networks for distances, an autoencoder."""
