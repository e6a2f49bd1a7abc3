"""The word tables of the English text normalisation. Data, no logic."""

from __future__ import annotations

MONTHS = ("January", "February", "March", "April", "May", "June", "July", "August", "September", "October",
          "November", "December")

ABBREVIATIONS = {
    "Mr.": "Mister", "Mrs.": "Missus", "Ms.": "Miz", "Dr.": "Doctor", "Prof.": "Professor", "St.": "Saint",
    "Jr.": "Junior", "Sr.": "Senior", "Rev.": "Reverend", "Hon.": "Honorable", "Gen.": "General", "Col.": "Colonel",
    "Capt.": "Captain", "Lt.": "Lieutenant", "Sgt.": "Sergeant", "Gov.": "Governor", "Sen.": "Senator",
    "Rep.": "Representative", "Mt.": "Mount", "Ft.": "Fort", "Ave.": "Avenue", "Blvd.": "Boulevard", "Rd.": "Road",
    "Inc.": "Incorporated", "Ltd.": "Limited", "Co.": "Company", "Corp.": "Corporation", "Dept.": "Department",
    "Univ.": "University", "e.g.": "for example", "i.e.": "that is", "etc.": "et cetera", "cf.": "compare",
    "viz.": "namely", "vs.": "versus", "approx.": "approximately", "ca.": "circa", "esp.": "especially",
    "al.": "al", "est.": "established", "Fig.": "Figure", "fig.": "figure", "Figs.": "Figures", "Eq.": "Equation",
    "Vol.": "Volume", "vol.": "volume", "Ch.": "Chapter", "Sec.": "Section", "pp.": "pages", "ed.": "edition",
    "No.": "Number", "Nos.": "Numbers", "Jan.": "January", "Feb.": "February", "Mar.": "March", "Apr.": "April",
    "Jun.": "June", "Jul.": "July", "Aug.": "August", "Sep.": "September", "Sept.": "September", "Oct.": "October",
    "Nov.": "November", "Dec.": "December", "a.m.": "A M", "p.m.": "P M", "w/o": "without", "w/": "with",
}

UNITS = {
    "km": ("kilometer", "kilometers"), "m": ("meter", "meters"), "cm": ("centimeter", "centimeters"),
    "mm": ("millimeter", "millimeters"), "nm": ("nanometer", "nanometers"), "µm": ("micrometer", "micrometers"),
    "μm": ("micrometer", "micrometers"), "mi": ("mile", "miles"), "ft": ("foot", "feet"), "yd": ("yard", "yards"),
    "kg": ("kilogram", "kilograms"), "g": ("gram", "grams"), "mg": ("milligram", "milligrams"),
    "lb": ("pound", "pounds"), "lbs": ("pound", "pounds"), "oz": ("ounce", "ounces"), "l": ("liter", "liters"),
    "L": ("liter", "liters"), "ml": ("milliliter", "milliliters"), "mL": ("milliliter", "milliliters"),
    "s": ("second", "seconds"), "ms": ("millisecond", "milliseconds"), "min": ("minute", "minutes"),
    "h": ("hour", "hours"), "hr": ("hour", "hours"), "hrs": ("hour", "hours"), "Hz": ("hertz", "hertz"),
    "kHz": ("kilohertz", "kilohertz"), "MHz": ("megahertz", "megahertz"), "GHz": ("gigahertz", "gigahertz"),
    "V": ("volt", "volts"), "W": ("watt", "watts"), "kW": ("kilowatt", "kilowatts"), "MW": ("megawatt", "megawatts"),
    "kWh": ("kilowatt hour", "kilowatt hours"), "J": ("joule", "joules"), "kJ": ("kilojoule", "kilojoules"),
    "N": ("newton", "newtons"), "Pa": ("pascal", "pascals"), "kPa": ("kilopascal", "kilopascals"),
    "K": ("kelvin", "kelvin"), "KB": ("kilobyte", "kilobytes"), "MB": ("megabyte", "megabytes"),
    "GB": ("gigabyte", "gigabytes"), "TB": ("terabyte", "terabytes"), "mph": ("mile per hour", "miles per hour"),
    "kmh": ("kilometer per hour", "kilometers per hour"), "km/h": ("kilometer per hour", "kilometers per hour"),
    "m/s": ("meter per second", "meters per second"), "°": ("degree", "degrees"),
    "°C": ("degree Celsius", "degrees Celsius"), "°F": ("degree Fahrenheit", "degrees Fahrenheit"),
    "%": ("percent", "percent"), "x": ("times", "times"), "×": ("times", "times"), "k": ("thousand", "thousand"),
    "km2": ("square kilometer", "square kilometers"), "m2": ("square meter", "square meters"),
    "m3": ("cubic meter", "cubic meters"), "¢": ("cent", "cents"), "am": ("A M", "A M"), "pm": ("P M", "P M"),
    "AM": ("A M", "A M"), "PM": ("P M", "P M"),
}

CURRENCY = {
    "$": ("dollar", "dollars", "cent", "cents"), "£": ("pound", "pounds", "penny", "pence"),
    "€": ("euro", "euros", "cent", "cents"), "¥": ("yen", "yen", "", ""),
}
MAGNITUDES = frozenset(("hundred", "thousand", "million", "billion", "trillion"))
SCALES = {"k": "thousand", "m": "million", "b": "billion", "bn": "billion"}

SYMBOLS = {
    "&": "and", "+": "plus", "=": "equals", "<": "is less than", ">": "is greater than", "±": "plus or minus",
    "×": "times", "÷": "divided by", "−": "minus", "@": "at", "#": "number", "%": "percent", "°": "degrees",
    "$": "dollar", "£": "pound", "€": "euro", "≈": "is about", "~": "about", "≤": "is at most", "≥": "is at least",
    "≠": "is not equal to", "→": "to", "§": "section", "∞": "infinity", "√": "the square root of", "/": "slash",
    "^": "to the power of", "∑": "the sum of", "∫": "the integral of", "¢": "cents",
}
INNER_SYMBOLS = {".": "dot", "-": "", "_": "underscore", "'": "", ",": "", ":": "", "*": "times", "\\": "backslash"}
"""Symbols inside a word, where they differ from SYMBOLS: ``example.com``, ``B-52``."""

NUMBERED = frozenset(("chapter", "part", "volume", "war", "act", "scene", "section", "book", "type", "class", "phase",
                      "stage", "article", "title", "figure", "table"))
"""Words after which a Roman numeral is a cardinal."""
REGNAL = frozenset(("Henry", "Louis", "George", "Charles", "Edward", "James", "Richard", "William", "Elizabeth",
                    "Philip", "Frederick", "Napoleon", "Pius", "Leo", "Benedict", "Gregory", "Alexander", "Nicholas",
                    "Ptolemy", "Ramses", "Otto", "Peter", "Catherine", "Mary", "Robert", "John", "Paul"))
"""Names after which a Roman numeral is an ordinal."""

LETTERS = {"ß": "ss", "æ": "ae", "Æ": "Ae", "œ": "oe", "Œ": "Oe", "ø": "o", "Ø": "O", "ł": "l", "Ł": "L", "đ": "d",
           "Đ": "D", "ð": "th", "þ": "th", "Þ": "Th", "ı": "i"}
"""Letters that Unicode does not decompose."""
