"""The report of a study: numbers, tables, a page."""
