"""The Stripe API version, separate from the SDK so that code which stores it needn't import the SDK."""

#: Pinned with the SDK release that was developed and tested against it. Changed only deliberately.
API_VERSION = "2026-10-28.endive"
