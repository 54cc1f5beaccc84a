"""The rules, pure: no input, no output, no clock. Everything here is a value or a function of its arguments."""
