"""An order after the sale: payment, expiry, cancel, release. The gateway uses it, and so does a process of its own."""
