"""Redis, Kafka and MariaDB as supervised child processes of one machine, on loopback only."""
