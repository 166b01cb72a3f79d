"""Words that may stand beside a value, and words that change it."""

from functools import cache

_UNITS = """
meter metre m mtr|centimeter centimetre cm|millimeter millimetre mm|kilometer kilometre km
decimeter decimetre dm|micrometer micron|nanometer nm|inch inches in|foot feet ft|yard yd|mile mi
light-year lightyear|gram gramme g gm|kilogram kilogramme kg kilo|milligram mg|microgram|tonne ton t
pound lb lbs|ounce oz|stone|liter litre l L|milliliter millilitre ml mL|centiliter cl|deciliter dl|gallon gal
quart qt|pint pt|cup|tablespoon tbsp|teaspoon tsp|second sec s|minute min mins|hour hr hrs h|day|week|month
year yr yrs|millisecond ms|decade|century centuries|degree deg degs|celsius C centigrade|fahrenheit F|kelvin K
radian rad|newton N|joule J|kilojoule kJ|watt W|kilowatt kW|megawatt MW|volt V|ampere amp A|ohm|hertz Hz
kilohertz kHz|megahertz MHz|pascal Pa|kilopascal kPa|mole mol|calorie cal|kilocalorie kcal|coulomb|farad|tesla
candela|lumen|unit|byte|kilobyte kB KB|megabyte MB|gigabyte GB|bit|mph|kph kmh|acre|hectare ha|am|pm
dollar usd buck|cent c|euro eur|pound-sterling gbp|yen jpy|rupee rs inr|yuan rmb cny|peso|franc
penny pennies pence|percent pct percentage|\u7c73 \u516c\u5c3a|\u5398\u7c73|\u5343\u7c73 \u516c\u91cc
\u5343\u514b \u516c\u65a4|\u514b|\u5143|\u5ea6|\u79d2|\u5206\u949f|\u5c0f\u65f6|\u5929|\u5468|\u6708|\u5e74
\u5347
"""
_THINGS = """
point time thing item object piece element member solution root value answer number digit term factor divisor
multiple integer prime zero-crossing way method choice option combination permutation arrangement sequence path
route pattern set subset pair triple triplet tuple function graph vertex vertices edge face side diagonal angle
triangle square rectangle circle cube sphere polygon hexagon line segment ray plane row column layer level step
stage round turn move game match win loss goal person people man men woman women child children kid boy girl
student pupil teacher adult baby friend family families guest player team member worker employee customer
visitor passenger driver voter citizen resident doctor patient nurse soldier sailor farmer baker class classroom
grade school page book chapter notebook magazine newspaper letter word sentence line paper sheet card stamp
ticket coin bill note marble ball bead button block brick tile box boxes bag bottle can jar basket crate carton
container tray pack packet package bundle bunch stack group cup glass glasses plate dish bowl spoon fork knife
knives apple orange banana pear peach plum grape cherry cherries berry berries strawberry strawberries lemon
mango melon watermelon pumpkin tomato tomatoes potato potatoes carrot onion bean pea egg cookie cake cupcake pie
pizza slice sandwich burger muffin donut doughnut candy candies chocolate lollipop biscuit bread loaf loaves
meal snack lunch dinner breakfast serving portion drink soda juice tea coffee water milk tree plant flower rose
tulip leaf leaves seed branch garden field farm animal dog cat puppy puppies kitten bird chicken hen duck goose
geese turkey cow pig sheep goat horse rabbit mouse mice rat fish shark whale frog turtle snake bee ant spider
insect butterfly butterflies monkey bear lion tiger elephant car truck bus buses bike bicycle train plane boat
ship wheel tire seat room house home apartment building floor window door table chair desk bed lamp toy doll
puzzle pencil pen crayon marker eraser shirt dress shoe sock hat glove coat jacket pants skirt scarf ring
necklace bracelet gift present prize token sticker photo picture painting song movie video message email call
question problem test exam lap trip visit job task shift vote dollar-bill mark score star planet atom molecule
cell inhabitant boxcar outcome event trial toss flip roll handshake pts \u4e2a \u4eba \u53ea \u672c \u6b21 \u79cd
\u68f5 \u5c81 \u5f20 \u6761 \u540d \u4f4d
"""
_FILLERS = """
the a an of in is are it its answer final result total altogether all about approximately approx roughly exactly
only just each every long wide tall high deep old apart away left remaining total worth respectively respective
same different distinct possible real positive-real required such that there ways how many we get have has
therefore thus hence so value equals equal side length width height depth area volume perimeter circumference
radius diameter speed distance weight mass age price cost profit amount measure rate probability sum product
difference quotient average mean median mode range for on at with from them they he she his her their you your
him by-hand whole per-person both \u7b54\u6848 \u662f \u4e3a \u5171 \u5171\u8ba1 \u7ea6 \u7b54
"""
_CHANGING = """
zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen
eighteen nineteen twenty thirty forty fifty sixty seventy eighty ninety half halves third quarter fifth sixth
seventh eighth ninth tenth hundredth thousandth hundreds thousands millions billions dozen dozens score gross
double twice thrice plus minus over divided multiplied root less more fewer than not no least most under above
below between to through until or and and/or except without remainder mod modulo base factorial negative neg
opposite inverse reciprocal either neither log but if when unless maybe perhaps possibly alternatively otherwise
also instead wrong nor versus vs greater smaller larger up down prime choose
"""
MULTIPLIERS = {
    **{"dozen": 12, "hundred": 100, "thousand": 1000, "million": 10**6, "mil": 10**6, "billion": 10**9},
    "trillion": 10**12,
}
COMPOSED = {"mph": {"mile": 1, "hour": -1}, "kph": {"kilometer": 1, "hour": -1}}
POWERS_BEFORE = {"square": 2, "sq": 2, "cubic": 3, "cu": 3}
POWERS_AFTER = {"squared": 2, "cubed": 3}
CHANGING = frozenset(_CHANGING.split())
FILLERS = frozenset(_FILLERS.split())


@cache
def _units() -> dict[str, str]:
    """Return the name of each unit by every spelling of it."""
    table: dict[str, str] = {}
    for entry in _UNITS.replace("\n", "|").split("|"):
        for name in entry.split():
            table[name] = entry.split()[0]
    return table


@cache
def harmless() -> frozenset[str]:
    """Things that are counted and words that say nothing, in the singular too."""
    return frozenset(_THINGS.split()) | {singular(name) for name in _THINGS.split()} | FILLERS


def singular(word: str) -> str:
    """Return a word in small letters without the ending of its plural."""
    word = word.casefold()
    for ending, base in (("ies", "y"), ("sses", "ss"), ("ches", "ch"), ("shes", "sh"), ("xes", "x"), ("s", "")):
        if word.endswith(ending) and len(word) > len(ending) + 2 and not word.endswith("ss"):
            return word.removesuffix(ending) + base
    return word


def unit_of(word: str) -> str | None:
    """Return the name of a unit by any of its spellings; None for a word that is no unit."""
    table = _units()
    for spelling in (word, word.casefold(), singular(word)) if len(word) > 1 else (word,):
        if spelling in table:
            return table[spelling]
    return None
