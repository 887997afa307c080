"""Secure sums: sites send masked vectors, and only their total can be opened (protocol SA-1)."""

from polyclinic.privacy.secure.coordinator import Opened, SecureCoordinator, drive
from polyclinic.privacy.secure.encoding import PROFILES, decode_fast64, encode_fast64
from polyclinic.privacy.secure.errors import SecureSumError, SiteRefused
from polyclinic.privacy.secure.identity import Identity, Roster
from polyclinic.privacy.secure.journal import MemoryJournal, SQLiteJournal
from polyclinic.privacy.secure.site import SecureSite
from polyclinic.privacy.secure.transcript import verify_transcript

__all__ = [
    "PROFILES",
    "Identity",
    "MemoryJournal",
    "Opened",
    "Roster",
    "SQLiteJournal",
    "SecureCoordinator",
    "SecureSite",
    "SecureSumError",
    "SiteRefused",
    "decode_fast64",
    "drive",
    "encode_fast64",
    "verify_transcript",
]
