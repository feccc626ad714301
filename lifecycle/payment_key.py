"""The secret that a payment provider and we share, read from its file."""

from pathlib import Path

from domain.errors import ConfigError
from domain.settings import Settings
from lifecycle.callback import KEY_BYTES_MIN


def read_payment_key(settings: Settings) -> bytes:
    """Return the key of callbacks and of our own calls to the provider.

    Raises:
        ConfigError: none is configured, the file cannot be read, or the key is shorter than 32 bytes.
    """
    name = settings.payment.key_file
    if not name:
        raise ConfigError("payment.key_file: name a file with the secret that the payment provider signs with")
    try:
        key = Path(name).read_bytes().strip()
    except OSError as error:
        raise ConfigError(f"payment.key_file: {error.strerror}: {name}") from None
    if len(key) < KEY_BYTES_MIN:
        raise ConfigError(f"payment.key_file: at least {KEY_BYTES_MIN} bytes are needed, this one has {len(key)}")
    return key
