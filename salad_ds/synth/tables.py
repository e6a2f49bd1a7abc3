"""What the library of reading.py does not know: words for symbols, rare units and abbreviations. Data, no logic."""

from __future__ import annotations

ABBREVIATIONS = {
    "Rev.": "Reverend", "Hon.": "Honorable", "Gen.": "General", "Col.": "Colonel", "Capt.": "Captain",
    "Lt.": "Lieutenant", "Sgt.": "Sergeant", "Gov.": "Governor", "Sen.": "Senator", "Rep.": "Representative",
    "Ft.": "Fort", "Ave.": "Avenue", "Blvd.": "Boulevard", "Inc.": "Incorporated", "Ltd.": "Limited",
    "Co.": "Company", "Corp.": "Corporation", "Dept.": "Department", "Univ.": "University", "Ph.D.": "P H D",
    "cf.": "compare", "viz.": "namely", "ca.": "circa", "esp.": "especially", "al.": "al", "est.": "established",
    "Fig.": "Figure", "fig.": "figure", "Figs.": "Figures", "Eq.": "Equation", "Vol.": "Volume", "vol.": "volume",
    "Ch.": "Chapter", "Sec.": "Section", "pp.": "pages", "ed.": "edition",
    "Jan.": "January", "Feb.": "February", "Mar.": "March", "Apr.": "April", "Jun.": "June", "Jul.": "July",
    "Aug.": "August", "Sep.": "September", "Sept.": "September", "Oct.": "October", "Nov.": "November",
    "Dec.": "December",
}
"""With the point, which ends no sentence."""
SHORT = {"Dr": "Doctor", "St": "Saint", "w/o": "without", "w/": "with", "BC": "B C", "AD": "A D",
         "BCE": "B C E", "CE": "C E", "XP": "X P", "C#": "C sharp"}
"""Without one: British titles; letters that are said one by one, where an engine or the library would not."""

UNITS = {
    "nm": ("nanometer", "nanometers"), "µm": ("micrometer", "micrometers"), "yd": ("yard", "yards"),
    "L": ("liter", "liters"), "mL": ("milliliter", "milliliters"), "tbsp": ("tablespoon", "tablespoons"),
    "tsp": ("teaspoon", "teaspoons"), "s": ("second", "seconds"), "J": ("joule", "joules"),
    "kJ": ("kilojoule", "kilojoules"), "N": ("newton", "newtons"), "Pa": ("pascal", "pascals"),
    "kPa": ("kilopascal", "kilopascals"), "K": ("kelvin", "kelvin"), "KB": ("kilobyte", "kilobytes"),
    "dB": ("decibel", "decibels"), "mV": ("millivolt", "millivolts"), "mA": ("milliampere", "milliamperes"),
    "kmh": ("kilometer per hour", "kilometers per hour"), "°C": ("degree Celsius", "degrees Celsius"),
    "m/s²": ("meter per second squared", "meters per second squared"),
    "mg/kg": ("milligram per kilogram", "milligrams per kilogram"),
    "mg/l": ("milligram per liter", "milligrams per liter"), "×": ("times", "times"), "¢": ("cent", "cents"),
}

SYMBOLS = {
    "&": "and", "+": "plus", "=": "equals", "<": "is less than", ">": "is greater than", "±": "plus or minus",
    "×": "times", "÷": "divided by", "−": "minus", "@": "at", "#": "number", "%": "percent", "°": "degrees",
    "$": "dollar", "£": "pound", "€": "euro", "¢": "cents", "≈": "is about", "~": "about", "≤": "is at most",
    "≥": "is at least", "≠": "is not equal to", "→": "to", "§": "section", "№": "number", "∞": "infinity",
    "√": "square root of", "/": "slash", "^": "to the power of", "∑": "the sum of", "∫": "the integral of",
    "²": "squared", "³": "cubed",
}
INNER_SYMBOLS = {".": "dot", "_": "underscore", "*": "times", "\\": "backslash"}
"""Symbols inside a word, beside those of SYMBOLS: ``example.com``."""

LETTERS = {"ß": "ss", "æ": "ae", "Æ": "Ae", "œ": "oe", "Œ": "Oe", "ø": "o", "Ø": "O", "ł": "l", "Ł": "L", "đ": "d",
           "Đ": "D", "ð": "th", "þ": "th", "Þ": "Th", "ı": "i"}
"""Letters that Unicode does not decompose."""
