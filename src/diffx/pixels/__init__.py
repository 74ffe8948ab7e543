"""Images as numbers and as files: values, sets, grids."""
