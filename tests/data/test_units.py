"""Every expected number is calculated by hand from the definition of the unit."""

from __future__ import annotations

import pytest

from polyclinic.core.errors import InputError
from polyclinic.data.units import conversion, same_kind


@pytest.mark.parametrize(
    ("own", "agreed", "value", "expected"),
    [
        ("mo", "a", 12, 1.0),
        ("d", "a", 730.5, 2.0),
        ("wk", "d", 2, 14),
        ("h", "min", 1.5, 90),
        ("s", "h", 1800, 0.5),
        ("g", "kg", 70_000, 70),
        ("[lb_av]", "kg", 100, 45.359237),
        ("[in_i]", "cm", 70, 177.8),
        ("cm", "m", 180, 1.8),
        ("kPa", "mm[Hg]", 16, 120.00986),  # 1 mmHg = 133.322387415 Pa
        ("%", "1", 45, 0.45),
        ("/s", "/min", 1.2, 72),
        ("10*9/L", "10*3/uL", 7.5, 7.5),  # the same number, two spellings
        ("10*12/L", "10*3/uL", 4.5, 4500),
        ("g/L", "g/dL", 140, 14),
        ("mg/L", "mg/dL", 50, 5),
        ("ug/L", "ng/mL", 3, 3),
        ("mmol/L", "umol/L", 0.08, 80),
        ("ukat/L", "U/L", 0.5, 30),  # 1 kat = 60e6 U
        ("[degF]", "Cel", 98.6, 37.0),
        ("Cel", "[degF]", 100, 212),
        ("K", "Cel", 310.15, 37.0),
        ("Cel", "K", 0, 273.15),
        ("K", "[degF]", 273.15, 32),
        ("mL", "L", 250, 0.25),
    ],
)
def test_conversion(own, agreed, value, expected):
    factor, offset = conversion(own, agreed)
    assert factor * value + offset == pytest.approx(expected, rel=1e-7, abs=1e-9)


@pytest.mark.parametrize(
    ("molar_mass", "mmol", "mg_dl"),
    [
        (386.65, 5.2, 201.058),  # cholesterol
        (180.156, 5.5, 99.0858),  # glucose
    ],
)
def test_amounts_and_masses_by_molar_mass(molar_mass, mmol, mg_dl):
    there, _ = conversion("mmol/L", "mg/dL", molar_mass)
    back, _ = conversion("mg/dL", "mmol/L", molar_mass)
    assert there * mmol == pytest.approx(mg_dl)
    assert back * mg_dl == pytest.approx(mmol)


def test_cholesterol_in_umol_per_litre():
    factor, _ = conversion("umol/L", "g/L", 386.65)
    assert factor == pytest.approx(386.65e-6)


@pytest.mark.parametrize(
    ("own", "agreed"),
    [
        ("mmol/L", "mg/dL"),
        ("kg", "cm"),
        ("furlong", "m"),
        ("m", "furlong"),
        ("meq/L", "mmol/L"),
    ],
)
def test_no_way_between_them_is_an_error_that_names_both(own, agreed):
    with pytest.raises(InputError) as caught:
        conversion(own, agreed)
    assert caught.value.code == "UNKNOWN_UNIT"
    assert own in caught.value.what and agreed in caught.value.what


def test_a_unit_is_itself_even_when_unknown():
    assert conversion("{vessels}", "{vessels}") == (1.0, 0.0)


def test_same_kind_lists_what_it_could_be():
    assert same_kind("kPa") == ["mm[Hg]"]
    assert set(same_kind("Cel")) == {"[degF]", "K"}
    assert "mmol/L" in same_kind("mg/dL", 386.65)
    assert "mmol/L" not in same_kind("mg/dL")
    assert "10*9/L" not in same_kind("10*3/uL")  # no difference that data could show
    assert same_kind("{vessels}") == []
