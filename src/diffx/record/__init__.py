"""Records: the cheapest way known to reach a value, as entries that anyone can check."""
