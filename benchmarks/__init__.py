"""Figures, each with the command that prints it. Speed is no test: it is measured here and stated in notes."""
