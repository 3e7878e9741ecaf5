"""What only an operator can mend, said in the log once a minute: the processes go on trying, hundreds of times."""

import logging
import time

log = logging.getLogger(__name__)

_AGAIN_S = 60.0
_said_s: dict[str, float] = {}


def complain(why: str) -> None:
    """Log `why`, unless it was said a moment ago. It is one of few sentences, and holds no secret."""
    now_s = time.monotonic()
    if now_s - _said_s.get(why, float("-inf")) >= _AGAIN_S:
        _said_s[why] = now_s
        log.error("store: %s", why)
