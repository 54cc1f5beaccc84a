"""The Stripe API version, apart from the SDK so that code which stores it needn't import the SDK."""

#: Pinned with the SDK release: what it was written and tested against. Raised only by a change of ours.
API_VERSION = "2026-10-28.endive"
