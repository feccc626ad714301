"""Everything before Kafka: HTTP, admission, stock, and the relay from the outbox."""
