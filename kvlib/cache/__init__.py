"""Bounded caches: what a policy keeps, how it is run, and one to decode with."""

from kvlib.cache.bounded import BoundedCache
