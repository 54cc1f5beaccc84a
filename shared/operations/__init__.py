"""Dashboard users, passwords, roles, sessions, the audit log, heartbeats, and stored Stripe events."""
