"""Passwords and keys that an address may hold are for its server alone."""

import re


def without_credentials(text: str) -> str:
    """``text`` with user and password of every address in it masked, and secret query values."""
    text = re.sub(r"(?<=://)[^/\s]*@", "***@", text)
    return re.sub(r"([?&][\w-]*(?:secret|key|token|password)[\w-]*=)[^&\s]+", r"\1***", text)


def is_masked(address: str) -> bool:
    """Whether ``without_credentials`` took something out of it."""
    return "***" in address
