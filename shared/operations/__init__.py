"""Who may use the dashboard: people, their passwords, roles and sessions, and the book of what they did."""
