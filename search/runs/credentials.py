"""Masks for the passwords, keys and tokens that addresses and error messages may hold."""

import re

MASK = "***"

_USER = re.compile(r"(?<=://)[^/\s]*@")
_NAMED_SECRET = re.compile(
    r"""(?ix) (?<! [\w-])
    (?= [\w-]* (?: secret|key|token|passw|pwd|signature|credential ) | sig \s? = )
    ( [\w-]+ \s? = \s? )
    (?: '[^']*' | "[^"]*" | [^&;\s'"]+ )"""
)


def without_credentials(text: str) -> str:
    """Mask user and password in every address of a text, and each value whose name is a secret's.

    Such names are ``token=``, ``password=``, ``AccountKey=``, ``sig=`` and ``X-Amz-Signature=``. A
    harmless value may be masked too: a message that hides too much is better than one that leaks.
    """
    return _NAMED_SECRET.sub(rf"\1{MASK}", _USER.sub(f"{MASK}@", text))


def is_masked(address: str) -> bool:
    """Whether ``without_credentials`` took something out of an address."""
    return MASK in address
