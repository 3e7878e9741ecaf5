"""Random inputs: texts and bytes that have broken parsers before, and sound ones with something done to them."""

import json
from random import Random
from typing import Any

NASTY = (
    "\r", "\n", "\r\n", "\n\n", "\r\r", "\u2028", "\u2029", "\x85", "\x00", "\x0b", "\x0c", "\x1c",
    "\x1e", "\ufeff", " ",
    ":",    "\ud83c", "\udf0a", "\U0001f642", "e\u0301", '"', "\\", "\\n", "{", "}", "[", "]", ",",
    "-", "0", "9", "@", ".",
    "\n\nid: 9-9\nevent: done\ndata: {}\n\n", "\r\rid: 9-9\rdata: x\r\r", "\r\n\r\nretry: 1\r\n\r\n", "\n: ka\n",
    "\nid\n",    "data: [DONE]\n\n", "event: failed\n", "]]>", "<script>", "'; --", "${x}", "%0d%0a", "٣", "９",
)  # fmt: skip
NUMBERS = ("NaN", "Infinity", "-Infinity", "1e999", "-0", "1" * 400, "18446744073709551616", "0.1e-400", "true", "null")


def text(chance: Random, most: int = 6) -> str:
    """Pieces of NASTY, letters, and any characters, half surrogates among them."""
    parts = []
    for _ in range(chance.randint(0, most)):
        kind = chance.random()
        if kind < 0.6:
            parts.append(chance.choice(NASTY))
        elif kind < 0.9:
            parts.append(chance.choice("abcxyz019-_ "))
        else:
            parts.append(chr(chance.choice((chance.randrange(0x110000), chance.randrange(0x300)))))
    return "".join(parts)


def whole_text(chance: Random, most: int = 6) -> str:
    """The same without half surrogates: what may stand in a log."""
    return text(chance, most).encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def value(chance: Random, depth: int = 3) -> Any:
    """Any JSON value."""
    kind = chance.randrange(9 if depth else 6)
    if kind < 2:
        return text(chance, 3)
    if kind == 2:
        return chance.choice((0, 1, -1, 2**31, 2**63, 2**64, 2**200, 0.5, 1e308, -7))
    if kind < 6:
        return chance.choice((None, True, False, "", [], {}))
    if kind < 7:
        return [value(chance, depth - 1) for _ in range(chance.randint(0, 3))]
    return {text(chance, 2): value(chance, depth - 1) for _ in range(chance.randint(0, 3))}


def spoiled(chance: Random, sound: Any) -> Any:
    """A JSON value like `sound`, with some of its parts replaced, left out or added."""
    if chance.random() < 0.08:
        return value(chance)
    if isinstance(sound, dict):
        made = {name: spoiled(chance, part) for name, part in sound.items() if chance.random() > 0.05}
        return made if chance.random() > 0.05 else {**made, text(chance, 2): value(chance)}
    if isinstance(sound, list):
        return [spoiled(chance, part) for part in sound]
    if isinstance(sound, str) and chance.random() < 0.2:
        return chance.choice((text(chance), sound + text(chance)))
    return sound


def as_json(chance: Random, sound: Any) -> bytes:
    """JSON of it, at times with escapes, duplicate names, numbers that are none, a BOM, or broken bytes."""
    plain = chance.random() < 0.5
    made = json.dumps(sound, ensure_ascii=not plain).encode("utf-8", "surrogatepass")
    if chance.random() < 0.1:
        made = made.replace(b"null", chance.choice(NUMBERS).encode(), 1)
    if chance.random() < 0.05 and made.startswith(b"{"):
        made = made[:1] + b'"type":1,"index":"x",' + made[1:]
    if chance.random() < 0.03:
        depth = chance.choice((30, 2_000))
        made = b"[" * depth + made + b"]" * depth
    return broken(chance, made) if chance.random() < 0.15 else made


def broken(chance: Random, sound: bytes) -> bytes:
    """Some bytes changed, cut out, doubled or put in."""
    made = bytearray(sound)
    for _ in range(chance.randint(1, 4)):
        at = chance.randint(0, len(made))
        match chance.randrange(4):
            case 0:
                made[at : at + 1] = bytes([chance.randrange(256)])
            case 1:
                del made[at : at + chance.randint(1, 8)]
            case 2:
                made[at:at] = made[max(0, at - 5) : at]
            case _:
                made[at:at] = chance.choice(
                    (b"\r", b"\n", b"\r\n\r\n", b"\x00", b"\xff", b"\xef\xbb\xbf", b"\xed\xa0\x80")
                )
    return bytes(made)


def cut(chance: Random, whole: bytes) -> list[bytes]:
    """The same bytes in pieces, as a network may bring them."""
    edges = sorted(chance.randint(0, len(whole)) for _ in range(chance.randint(0, 5)))
    return [whole[start:end] for start, end in zip([0, *edges], [*edges, len(whole)], strict=True)]
