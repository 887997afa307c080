"""Conversion between the units that hospitals write (UCUM), exact factors only.

A unit is a factor (and for temperatures an offset) to a base unit of its kind. Amounts of substance
turn into masses by the column's molar mass (g/mol).
"""

from __future__ import annotations

from polyclinic.core.errors import InputError

_BASE: dict[str, tuple[str, float, float]] = {}


def _kind(kind: str, **factors: float) -> None:
    for unit, factor in factors.items():
        _BASE[_SPELLED.get(unit, unit)] = (kind, factor, 0.0)


_SPELLED = {
    "mm_Hg": "mm[Hg]",
    "lb": "[lb_av]",
    "inch": "[in_i]",
    "percent": "%",
    "one": "1",
    "per_min": "/min",
    "per_s": "/s",
    "e3_uL": "10*3/uL",
    "e9_L": "10*9/L",
    "e6_uL": "10*6/uL",
    "e12_L": "10*12/L",
    "g_dL": "g/dL",
    "g_L": "g/L",
    "mg_dL": "mg/dL",
    "mg_L": "mg/L",
    "ug_L": "ug/L",
    "ug_dL": "ug/dL",
    "ng_mL": "ng/mL",
    "mol_L": "mol/L",
    "mmol_L": "mmol/L",
    "umol_L": "umol/L",
    "nmol_L": "nmol/L",
    "meq_L": "meq/L",
    "kg_m2": "kg/m2",
    "U_L": "U/L",
    "ukat_L": "ukat/L",
}
_kind("time", a=365.25, mo=30.4375, wk=7.0, d=1.0, h=1 / 24, min=1 / 1440, s=1 / 86400)
_kind("mass", kg=1.0, g=1e-3, mg=1e-6, ug=1e-9, lb=0.45359237)
_kind("length", m=1.0, dm=0.1, cm=0.01, mm=0.001, inch=0.0254)
_kind("pressure", mm_Hg=1.0, kPa=1 / 0.133322387415)
_kind("ratio", one=1.0, percent=0.01)
_kind("rate", per_min=1.0, per_s=60.0)
_kind("cells", e3_uL=1.0, e9_L=1.0, e6_uL=1e3, e12_L=1e3)
_kind("volume", L=1.0, dL=0.1, mL=1e-3, uL=1e-6)
_kind(
    "mass concentration",
    g_L=1.0,
    g_dL=10.0,
    mg_dL=0.01,
    mg_L=1e-3,
    ug_L=1e-6,
    ug_dL=1e-5,
    ng_mL=1e-6,
)
_kind("amount concentration", mol_L=1.0, mmol_L=1e-3, umol_L=1e-6, nmol_L=1e-9)
_kind("equivalents", meq_L=1.0)
_kind("enzyme activity", U_L=1.0, ukat_L=60.0)
_BASE["Cel"] = ("temperature", 1.0, 0.0)
_BASE["[degF]"] = ("temperature", 5.0 / 9.0, -160.0 / 9.0)
_BASE["K"] = ("temperature", 1.0, -273.15)


def conversion(own: str, agreed: str, molar_mass: float | None = None) -> tuple[float, float]:
    """(factor, offset) with agreed = factor * own + offset.

    Raises
    ------
    InputError : UNKNOWN_UNIT, naming both units.
    """
    if own == agreed:
        return 1.0, 0.0
    first, second = _BASE.get(own), _BASE.get(agreed)
    if first and second:
        factor = first[1] / second[1]
        if first[0] == second[0]:
            return factor, (first[2] - second[2]) / second[1]
        pair = (first[0], second[0])
        if molar_mass and pair == ("amount concentration", "mass concentration"):
            return factor * molar_mass, 0.0
        if molar_mass and pair == ("mass concentration", "amount concentration"):
            return factor / molar_mass, 0.0
    raise InputError(
        f"no conversion from {own} to {agreed}",
        code="UNKNOWN_UNIT",
        rule="units are UCUM and of one kind; amounts become masses by molar_mass",
        next="correct the unit, or convert the column before it is read",
    )


def same_kind(unit: str, molar_mass: float | None = None) -> list[str]:
    """Other units of the kind of `unit`, for the suspicion that a column is in one of them."""
    found = []
    for other in _BASE:
        try:
            factor, offset = conversion(other, unit, molar_mass)
        except InputError:
            continue
        if other != unit and (abs(factor - 1.0) > 1e-9 or offset):
            found.append(other)
    return found
