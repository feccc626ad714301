"""Thin edges to Redis, MySQL and Kafka: construction with safe options, and translation of foreign errors."""
