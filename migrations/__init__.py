"""The MySQL schemas, each with its own version history, for they may lie on different servers."""
