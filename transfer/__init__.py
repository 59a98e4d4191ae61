"""Judge: what a frozen backbone is worth."""
