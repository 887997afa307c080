"""The codes that may cross a site's border, and the words that the other side supplies for them."""

from __future__ import annotations

RULES = {
    "TOO_FEW_PATIENTS": "the hospital's policy: a number leaves only with enough patients behind "
    "it (5 unless the hospital says otherwise)",
    "CELL_TOO_SMALL": "the hospital's policy: every cell of this table needs enough patients",
    "COLLECT_NOT_ALLOWED": "the hospital's policy allows sums over hospitals; an answer of one "
    "hospital alone must be allowed by name",
    "UNKNOWN_TASK": "a hospital runs installed algorithms only; no code travels",
    "SCHEMA_MISMATCH": "a contribution holds exactly the arrays that its algorithm declares",
    "BAD_MESSAGE": "messages are canonical bytes of plain data",
    "WRONG_ANSWER": "an answer belongs to the site and the round that were asked",
    "SITE_LOST": "every hospital that a study needs must answer",
    "SITE_FAILED": "the hospital could not compute its part; the reason is shown there only",
    "NONFINITE": "no number that leaves is NaN or infinite",
    "RANGE": "every value lies within the range that the codebook declares",
    "GUARD": "a total lies within the guarded range of the ring",
    "BAD_DATA": "the hospital's data do not fit the plan; the column is shown there only",
}
NEXT = {
    "TOO_FEW_PATIENTS": "leave the hospital out, widen the cohort, or use fewer groups",
    "CELL_TOO_SMALL": "merge rare levels in the codebook, or use coarser bins",
    "COLLECT_NOT_ALLOWED": "ask the hospital to allow it, or switch off results per hospital",
    "UNKNOWN_TASK": "install the same version of Polyclinic at every site",
    "RANGE": "declare the column's range in the codebook, or use a smaller unit",
    "NONFINITE": "run the quality check at the hospital: polyclinic check",
    "SITE_FAILED": "look at the log of that hospital",
    "BAD_DATA": "run the quality check at the hospital: polyclinic check",
}
