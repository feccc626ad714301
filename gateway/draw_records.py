"""A lottery's outbox entry as records for Kafka.

The log goes first, and is acknowledged before the rest: whatever follows from a draw can be made again from its log, so
a prize that anybody knows of is in the log, whatever crashes. Pure.
"""

from domain.draw_events import TOPIC_DRAWS_LOG, TOPIC_DRAWS_WON, DrawLog, encode_draw_event
from domain.events import TOPIC_POINTS_AWARDED, encode_points_awarded
from domain.outbox import parse_outbox_id
from gateway.outgoing import Outgoing


def log_record(log: DrawLog) -> Outgoing:
    """Return the record of an entry of the log; all of a lottery's lie in one partition, in order."""
    return Outgoing(TOPIC_DRAWS_LOG, log.campaign_id.encode(), encode_draw_event(log), _timestamp_ms(log))


def won_records(log: DrawLog) -> list[Outgoing]:
    """Return what follows from the draws of an entry that won: the prize's order, and the points that it is worth."""
    timestamp_ms = _timestamp_ms(log)
    records = []
    for won in log.won():
        key = won.draw_id.encode()
        records.append(Outgoing(TOPIC_DRAWS_WON, key, encode_draw_event(won), timestamp_ms))
        award = won.award()
        if award is not None:
            records.append(Outgoing(TOPIC_POINTS_AWARDED, key, encode_points_awarded(award), timestamp_ms))
    return records


def _timestamp_ms(log: DrawLog) -> int:
    return parse_outbox_id(log.outbox_id)[0]
