"""Placeholder."""


def document_json() -> bytes:
    """X."""
    return b"{}"


def docs_html() -> bytes:
    """X."""
    return b""
