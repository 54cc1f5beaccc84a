"""The operators' dashboard: server-rendered pages that work without JavaScript, and refresh themselves with it."""
