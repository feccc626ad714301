"""Switches for a redemption on its way to Kafka: its checks, its replays, its topic."""

from collections.abc import Callable
from typing import Any, Final

from tests.support.hooks import replace


def checks_at_the_same_time() -> None:
    """Each check of a redemption begins when the one before has come back."""
    from gateway.redemptions import Checking, RedemptionDesk

    def begin(self: RedemptionDesk, one: Checking) -> None:
        self.campaign.begin(one)

    def told(self: RedemptionDesk, one: Checking) -> None:
        one.left -= 1
        if one.left:
            (self.points, self.stock)[one.left - 1].begin(one)
        else:
            self._judge(one)

    replace(RedemptionDesk, "_begin", begin)
    replace(RedemptionDesk, "_told", told)


def redemptions_replayed_before_refusal() -> None:
    """Nobody asks whether a redemption that is refused was accepted before."""
    from gateway.redemption_rules import Refusal
    from gateway.redemptions import Checking, RedemptionDesk

    def refuse(self: RedemptionDesk, one: Checking, refusal: Refusal) -> None:
        one.refusal = refusal
        self._tell(one)

    replace(RedemptionDesk, "_refuse", refuse)


def refusals_wait_for_recovery() -> None:
    """What is not in a buyer's record was never accepted, whatever Redis has lost."""
    from adapters.stock import read_sure_attempts
    from domain.errors import FencedError
    from gateway import app

    async def trusting(client: Any, buyers: Any) -> Any:
        return [[] if isinstance(one, FencedError) else one for one in await read_sure_attempts(client, buyers)]

    replace(app, "read_sure_attempts", trusting)


def silence_is_no_refusal() -> None:
    """A store that does not answer has nothing: no stock, no account."""
    from gateway import redemption_rules

    judge = redemption_rules.judge

    def hasty(told: Any, quantity: int) -> Any:
        said = {name: None for name, value in told._asdict().items() if value is redemption_rules.SILENT}
        return judge(told._replace(**said), quantity)

    from gateway import redemptions

    replace(redemptions, "judge", hasty)


def redemptions_have_their_topic() -> None:
    """The relay does not ask of which kind a campaign is."""
    from gateway import order_records

    def orders(_kind: str) -> Any:
        return order_records._ORDERS

    replace(order_records, "_way_of", orders)


def recovery_asks_the_topic_of_the_kind() -> None:
    """Recovery looks for lost orders among the orders of sales."""
    from gateway.recovery_sources import RecoverySources

    init = RecoverySources.__init__

    async def sale(_campaign_id: str) -> str:
        return "sale"

    def blind(self: RecoverySources, open_topic: Any, _kind_of: Any, *pools: Any) -> None:
        init(self, open_topic, sale, *pools)

    replace(RecoverySources, "__init__", blind)


def places_for_checks_bounded() -> None:
    """Redemptions that are being checked may take all places of a worker."""
    from gateway.redemptions import RedemptionDesk

    init = RedemptionDesk.__init__

    def unbounded(self: RedemptionDesk, settings: Any, *parts: Any) -> None:
        init(self, settings, *parts)
        self._checking_max = 1_000_000

    replace(RedemptionDesk, "__init__", unbounded)


SWITCHES: Final[dict[str, Callable[[], None]]] = {
    switch.__name__: switch
    for switch in (
        checks_at_the_same_time,
        redemptions_replayed_before_refusal,
        refusals_wait_for_recovery,
        silence_is_no_refusal,
        redemptions_have_their_topic,
        recovery_asks_the_topic_of_the_kind,
        places_for_checks_bounded,
    )
}
