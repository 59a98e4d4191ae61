"""The common parts of all pages that Pretint serves: server, security, responses."""
