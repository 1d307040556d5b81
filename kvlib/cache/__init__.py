"""Bounded caches: what a policy keeps, how it is run, and one to decode with."""

from kvlib.cache.bounded import BoundedCache
from kvlib.cache.by_policy import PolicyCache

__all__ = ["BoundedCache", "PolicyCache"]
