"""Everything after Kafka: what was accepted is written to MySQL, exactly once."""
