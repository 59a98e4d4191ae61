"""Local web pages: the studio and the Turing study. Needs the extra ``apps``."""
