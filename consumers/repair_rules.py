"""Which faults may be repaired, by whom, and what is to be done for that. Decided without I/O.

By itself the reconciler repairs two things, and only after every look has found them:

- **A release that the ledger proves.** The ledger is written first and with it a row that says what is owed to Redis;
  where that row is done or gone and Redis still holds the units, they are given back. The script gives a hold back
  once. This is the only repair that raises stock. It is not done where the order came from more than one outbox
  entry: what was deducted a second time is given back in another way, and both would be once too often.
- **An entry that was not relayed.** A buyer's record holds the order, and it is in neither outbox, Kafka, MySQL nor
  the dead letters: the entry was lost (trimmed by hand, say) before the relay came to it. The order was accepted, and
  an acceptance is permanent, so its event is made anew, without an origin (0-0). That the original cannot be on its
  way any more: `Verdict.all_relayed`. Should it come all the same (from a relay that was paused in the middle of a
  publication and lost its ownership), it is a harmless duplicate: consumers take an order that is known from 0-0, or
  comes with 0-0, for the same deduction. What is not told by the record is the price at the time; the present one
  is taken.

Everything else waits for a person, who says `reconcile --repair`, or is never touched.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final, NamedTuple

from consumers.reconcile_look import NO_STOCK, REDIS, RETURNED, SECOND, SETTLED, STORED, Stock
from consumers.reconcile_rules import Fault, FaultKind, Finding, SkuNumbers, Verdict

REPAIRS_MAX: Final = 1_000
"""Repairs of a campaign in one round; the next round goes on."""


class Repair(StrEnum):
    """How a fault is repaired."""

    AUTOMATIC = "automatic"
    BY_HAND = "by hand: reconcile --repair"
    DEAD_LETTER = "by hand: deadletter list"
    NONE = "none: look at trace ORDER"


class ActionKind(StrEnum):
    """What is done."""

    RELEASE = "release"
    """Give units back in Redis that the ledger has released."""
    REISSUE = "reissue"
    """Publish the event of an accepted order anew."""
    RESTORE = "restore"
    """Put an order back into its buyer's record, and take its stock where Redis does not count it any more."""
    ALLOCATED = "allocated"
    """Bring what fg_orders says is allocated to the catalog's figure."""
    SOLD = "sold"
    """Count MySQL's counter anew from the ledger."""


class Action(NamedTuple):
    """One thing to do."""

    kind: ActionKind
    campaign_id: str
    sku_id: str
    order_id: str = ""
    hold_no: int = 0
    quantity: int = 0
    take: bool = False
    """RESTORE: stock has to be taken, too."""
    stock: Stock = NO_STOCK
    """Redis's numbers on which the decision stands, as they are when it is this action's turn."""


class Repaired(NamedTuple):
    """What became of one action."""

    action: Action
    done: bool
    text: str


class Left(NamedTuple):
    """A fault that would be repaired by hand, and why it is not now."""

    fault: Fault
    why: str


@dataclass(slots=True)
class Plan:
    """What is to be done, in this order, and what is left."""

    actions: list[Action] = field(default_factory=list)
    left: list[Left] = field(default_factory=list)


def repair_of(fault: Fault, finding: Finding, numbers: SkuNumbers) -> Repair:
    """Say how a fault is repaired.

    Args:
        fault: what is wrong.
        finding: what was found of it.
        numbers: of its SKU.
    """
    facts = finding.facts
    match fault.kind:
        case FaultKind.RELEASE:
            return Repair.NONE if facts & SECOND else Repair.AUTOMATIC
        case FaultKind.UNRELAYED:
            return Repair.AUTOMATIC
        case FaultKind.MISSING:
            held = facts & (REDIS | RETURNED) == REDIS and not facts & SETTLED and finding.hold_no == 1
            return Repair.BY_HAND if held else Repair.NONE
        case FaultKind.LOST | FaultKind.SOLD:
            return Repair.BY_HAND
        case FaultKind.ALLOCATED:
            return Repair.BY_HAND if numbers.in_redis else Repair.NONE
        case FaultKind.DEAD_LETTER:
            return Repair.DEAD_LETTER
        case _:
            return Repair.NONE


def plan(verdict: Verdict, *, by_hand: bool) -> Plan:
    """Say what is to be done about a verdict that all looks agree on.

    Args:
        verdict: confirmed by the full set of looks.
        by_hand: a person has asked; else only what is safe without one.
    """
    made = Plan()
    numbers = {one.sku_id: one for one in verdict.skus}
    lost: dict[str, list[tuple[Fault, Finding]]] = {}
    for fault, finding in sorted(verdict.faults.items(), key=lambda item: item[0]):
        of_sku = numbers.get(fault.sku_id)
        if of_sku is None:
            continue
        repair = repair_of(fault, finding, of_sku)
        if repair is not Repair.AUTOMATIC and not (by_hand and repair is Repair.BY_HAND):
            continue
        if fault.kind is FaultKind.LOST:
            lost.setdefault(fault.sku_id, []).append((fault, finding))
        elif fault.kind is FaultKind.UNRELAYED and not by_hand and not verdict.all_relayed:
            made.left.append(Left(fault, "the relay has not caught up yet"))
        else:
            made.actions.append(_action(verdict.campaign_id, fault, finding))
    restores = [
        action for sku_id, faults in lost.items() for action in _restore(verdict, numbers[sku_id], faults, made)
    ]
    made.actions = [*restores, *made.actions][:REPAIRS_MAX]  # the restores stand on numbers that the others change
    return made


_ACTIONS: Final = {
    FaultKind.RELEASE: ActionKind.RELEASE,
    FaultKind.UNRELAYED: ActionKind.REISSUE,
    FaultKind.MISSING: ActionKind.REISSUE,
    FaultKind.ALLOCATED: ActionKind.ALLOCATED,
    FaultKind.SOLD: ActionKind.SOLD,
}


def _action(campaign_id: str, fault: Fault, finding: Finding) -> Action:
    return Action(_ACTIONS[fault.kind], campaign_id, fault.sku_id, fault.order_id, finding.hold_no, finding.quantity)


def _restore(
    verdict: Verdict, numbers: SkuNumbers, faults: Sequence[tuple[Fault, Finding]], made: Plan
) -> list[Action]:
    """Plan the return of lost orders of one SKU to their buyers' records.

    Redis's counters may still count units that no record holds any more: as many are put into records without being
    taken from stock. Which of the lost orders these are makes no difference.
    """
    actions: list[Action] = []
    stock = numbers.stock
    uncounted = stock.taken - stock.returned - numbers.redis_held - numbers.second_units
    for fault, finding in sorted(faults, key=lambda item: (-item[1].quantity, item[0])):
        quantity = finding.quantity
        if finding.facts & STORED != STORED:
            why = "it is not in MySQL yet"
        elif numbers.moving:
            why = "stock is moving: pause the campaign, or try again"
        elif uncounted and quantity > uncounted:
            why = f"Redis's counters and its buyers' records differ by {uncounted} units: a person has to look"
        elif not uncounted and quantity > stock.remaining:
            why = f"{stock.remaining} units are left, and it needs {quantity}: more was sold than there is"
        else:
            take = not uncounted
            action = Action(ActionKind.RESTORE, verdict.campaign_id, fault.sku_id, fault.order_id, finding.hold_no)
            actions.append(action._replace(quantity=quantity, take=take, stock=stock))
            if take:
                stock = stock._replace(remaining=stock.remaining - quantity, taken=stock.taken + quantity)
            else:
                uncounted -= quantity
            continue
        made.left.append(Left(fault, why))
    return actions
