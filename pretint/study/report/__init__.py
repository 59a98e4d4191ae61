"""What is known of a study: numbers, tables, a page."""
