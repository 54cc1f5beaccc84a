"""Payments: every process and every operator changes them through these modules."""
