"""What customers do and to what, by the words of the contract and of others.

Invariant: a word of the contract means itself, and a name has the same number for ever.
"""

import hashlib
from difflib import get_close_matches

from models.base import EVENT_TYPES

CODES = {name: code for code, name in enumerate(EVENT_TYPES)}
OTHER, REFUND = CODES["other"], CODES["refund"]
NOT_A_NAME = -1
#: What other systems call the same, without spaces and strokes.
ALIASES = {
    **{name.replace("_", ""): name for name in EVENT_TYPES if name != "other"},
    **dict.fromkeys(("order", "buy", "transaction", "sale", "checkout"), "purchase"),
    **dict.fromkeys(("return", "chargeback"), "refund"),
    **dict.fromkeys(("pv", "pageview", "itemview", "detailpageview", "viewitem"), "view"),
    **dict.fromkeys(("cart", "addtobasket", "basket"), "add_to_cart"),
    **dict.fromkeys(("removefrombasket", "removecart"), "remove_from_cart"),
    **dict.fromkeys(("fav", "favourite", "wishlist", "addtowishlist", "like"), "favorite"),
}


def alias_of(name: str) -> str | None:
    """The known type that another word, or another way to write it, stands for."""
    return ALIASES.get(_plain(name).replace("_", ""))


def near(name: str) -> str | None:
    """The known type that a word may be meant for: by another name, or misspelt."""
    known = [each for each in CODES if each != "other"]
    close = get_close_matches(_plain(name), known, n=1, cutoff=0.85)
    return alias_of(name) or (close[0] if close else None)


def _plain(name: str) -> str:
    return name.strip().lower().replace("-", "_").replace(" ", "_")


def number_of(name: str) -> int:
    """A number for a name of an item or a category, the same for ever, from 0 on."""
    digest = hashlib.blake2b(name.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1
