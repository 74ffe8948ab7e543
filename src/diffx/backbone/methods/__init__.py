"""Networks that a training method brings, one file each: what the method adds is there at sampling too."""
