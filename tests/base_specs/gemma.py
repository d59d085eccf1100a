"""Tiny bases, as data."""

from .spec import BaseSpec


SPECS: dict[str, BaseSpec] = {}
