"""The one runner that applies decisions to rows: every process and every person moves payments through here."""
