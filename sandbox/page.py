"""The page on which a buyer pays at the sandbox provider."""

import html
from typing import Final

from lifecycle.provider import ProviderState
from sandbox.rules import Payment

HEADERS: Final = {
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; form-action 'self'; "
    "frame-ancestors 'none'; base-uri 'none'",
    "Cache-Control": "no-store",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}

_STYLE: Final = """
:root{color-scheme:light dark}
body{font:16px/1.5 system-ui,sans-serif;margin:0;min-height:100vh;display:grid;place-items:center;background:Canvas;
color:CanvasText}
main{width:min(22rem,calc(100vw - 3rem));padding:1.75rem;border:1px solid color-mix(in srgb,CanvasText 20%,Canvas);
border-radius:14px}
h1{font-size:1rem;font-weight:600;margin:0}
.amount{font-size:2.6rem;font-weight:700;font-variant-numeric:tabular-nums;margin:.75rem 0 0}
dl{display:grid;grid-template-columns:auto 1fr;gap:.15rem .9rem;margin:1rem 0 1.5rem;font-size:.85rem}
dt{opacity:.7}dd{margin:0;overflow-wrap:anywhere;font-family:ui-monospace,monospace}
form{display:grid;grid-template-columns:2fr 1fr;gap:.75rem}
button{font:inherit;font-weight:600;padding:.7rem;border-radius:9px;border:1px solid currentColor;cursor:pointer;
background:none;color:inherit}
button.pay{background:#176b3a;border-color:#176b3a;color:#fff}
button:focus-visible{outline:3px solid Highlight;outline-offset:2px}
.state{font-weight:600;padding:.7rem;border-radius:9px;text-align:center;
background:color-mix(in srgb,CanvasText 8%,Canvas)}
small{display:block;margin-top:1.25rem;opacity:.7}
"""
_SAYS: Final = {
    ProviderState.APPROVED: "Paid. You can go back to the shop.",
    ProviderState.DECLINED: "Declined. Nothing was charged.",
    ProviderState.REFUNDED: "Refunded. The money has gone back.",
}
_FORM: Final = (
    "<form method=post><button class=pay name=decision value=approve>Pay</button>"
    "<button name=decision value=decline>Decline</button></form>"
)


def payment_page(payment: Payment, note: str = "") -> str:
    """Return the page of a payment, with a note to the buyer, if any."""
    amount = f"{payment.amount_cents // 100:,}.{payment.amount_cents % 100:02d}"
    says = _SAYS.get(payment.state)
    return _page(
        f"Pay {amount}" if says is None else says,
        f"<h1>Payment sandbox</h1><p class=amount>{amount}</p>"
        f"<dl><dt>Order</dt><dd>{html.escape(payment.order_id)}</dd>"
        f"<dt>Payment</dt><dd>{html.escape(payment.payment_id)}</dd></dl>"
        + (f"<p role=alert>{html.escape(note)}</p>" if note else "")
        + (_FORM if says is None else f"<p class=state role=status>{says}</p>")
        + "<small>For trying things out: no money moves.</small>",
    )


def problem_page(message: str) -> str:
    """Return a page that says what is wrong."""
    return _page("Payment sandbox", f"<h1>Payment sandbox</h1><p role=alert>{html.escape(message)}</p>")


def _page(title: str, body: str) -> str:
    return (
        "<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content='width=device-width'>"
        f"<title>{html.escape(title)}</title><style>{_STYLE}</style><main>{body}</main></html>"
    )
