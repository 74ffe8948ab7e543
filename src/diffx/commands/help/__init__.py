"""What `python -m diffx` says about itself: its help, from the comments of conf/, and the completion of a shell."""
