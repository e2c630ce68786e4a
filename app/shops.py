"""What a shop may be called."""

import re

SHOP = re.compile("[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
SHOP_WORDS = "must be of 1 to 64 letters, digits and . _ -, beginning with a letter or a digit"
