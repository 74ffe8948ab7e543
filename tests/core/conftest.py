"""Property tests draw the same examples every time, and are not timed."""

from hypothesis import settings

settings.register_profile("diffx", deadline=None, derandomize=True, database=None, max_examples=30)
settings.load_profile("diffx")
