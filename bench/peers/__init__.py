"""Gateways that flashgate is measured beside, each built as well as its users would build it."""
