"""Named places at which a test may end the process, to prove that nothing is lost there.

In production nothing is installed and `reach` does nothing. There is deliberately no setting for it.
"""

from collections.abc import Callable

hook: Callable[[str], None] | None = None
"""Called with the name of each place that is reached."""


def reach(name: str) -> None:
    """Say that the place `name` has been reached."""
    if hook is not None:
        hook(name)
