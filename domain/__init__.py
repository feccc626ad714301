"""The words that the gateway and the consumers share. Nothing here does I/O."""
