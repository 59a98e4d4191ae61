"""What every page that Pretint serves is made of: the server, and what guards it."""
