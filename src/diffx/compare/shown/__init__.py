"""How a study is shown: its tables, its words, its pictures, its page, and its place in W&B."""
