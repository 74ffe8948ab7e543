"""A sweep: its runs, what they are called, and the table that shows how far they are."""
