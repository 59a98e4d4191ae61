"""Methods: what a backbone is trained for, with its heads, losses and targets. One file each."""
