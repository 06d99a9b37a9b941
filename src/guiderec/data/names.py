"""Names for a made-up shop, computed from numbers: 30 million distinct ones, none stored.

A shelf is a category and a subcategory, like "Tea / Oolong". On a shelf, items come in series of five, and a series is
an adjective, a noun, the shelf's own word and, once these are used up, a place:

    series 0, volume 1 of "Tea / Oolong"        Golden Meadow Oolong, No. 1
    series 9000, volume 4                       Coral Garden Oolong from Fernwick, No. 4

Shelves have different words, so names differ between shelves; within a shelf the numbers of adjective, noun and place
are the digits of the (shuffled) number of the series, so they differ there too. All functions are vectorised.
"""

from __future__ import annotations

from dataclasses import dataclass

import polars as pl

from guiderec.data.sequences import Ids

VOLUMES = 5
"""Items of a series."""


def _words(text: str) -> list[str]:
    return text.split()


ADJECTIVES = _words(
    "Amber Autumn Bright Bronze Calm Clear Copper Coral Crimson Crystal Distant Dusky Early Emerald Fabled Floating "
    "Gentle Gilded Glass Golden Hidden Hushed Indigo Ivory Jade Lively Lucky Marble Mellow Merry Misty Moonlit "
    "Northern Opal Painted Patient Pearl Quiet Rambling Rosy Ruby Rustic Saffron Scarlet Silver Starlit Sunny Velvet"
)
NOUNS = {
    "story": _words(
        "Anchor Archive Attic Bell Bridge Candle Castle Clock Compass Cottage Crossing Door Feather Ferry Gallery Gate "
        "Harbour Island Key Kite Lantern Letter Library Lighthouse Map Market Mill Mirror Orchard Passage Path Pier "
        "Portrait Quay Raven River Station Stair Study Sundial Theatre Tower Town Village Voyage Window Workshop Yard"
    ),
    "music": _words(
        "Alley Arcade Avenue Balcony Ballroom Bay Boulevard Cafe Canal Carousel Chapel City Coast Corner Courtyard "
        "Curtain Dawn Dusk Evening Festival Fountain Garden Hall Harbour Horizon Hour Lagoon Lamp Meadow Midnight Moon "
        "Morning Night Parade Park Pavilion Plaza Rain River Room Season Shore Sky Square Stage Street Sunset Terrace"
    ),
    "table": _words(
        "Acorn Barn Basket Bay Blossom Breeze Brook Canyon Cliff Cloud Clover Creek Cup Dale Farm Fern Field Forest "
        "Garden Glade Glen Grove Harvest Hearth Heron Highland Hill Hollow Kettle Lake Lark Leaf Maple Meadow Mountain "
        "Oak Orchard Pasture Peak Plateau Ridge River Slope Spring Swallow Terrace Valley Willow"
    ),
    "home": _words(
        "Badger Bee Bluebell Bramble Butterfly Cabin Canopy Chestnut Comet Cricket Daisy Deer Dove Finch Firefly Fox "
        "Hare Hazel Hedgehog Heather Iris Juniper Kingfisher Lilac Linden Magpie Marigold Mole Moth Myrtle Nightjar "
        "Otter Owl Pebble Planet Poppy Primrose Puffin Robin Rowan Seal Sparrow Squirrel Star Thistle Wagon Wren Yarrow"
    ),
}
PLACES = _words(
    "Alderwick Appledown Ashmere Beechcombe Birchholm Brackenford Brightwater Clovermoor Dunmarrow Eastmere Elderby "
    "Fairhollow Fernwick Foxcombe Gladeford Goldenmere Greyholm Hartsend Hazelby Hollowbrook Ivycombe Kestrelby "
    "Larkhollow Lindenmere Marlwick Mistford Mossholm Northcombe Oakhollow Otterby Pinewick Quillmere Ravenholm "
    "Rosecombe Rowanford Silverby Thornmere Westhollow Willowby Wrenford"
)

# category: nouns, word before the number of a volume, and {subcategory: the word that no other shelf has}
_SHOP: tuple[tuple[str, str, str, dict[str, str]], ...] = (
    ("Tea", "table", "No.", {
        "Oolong": "Oolong", "Green": "Green Tea", "Breakfast": "Breakfast Tea", "Herbal": "Herbal Tea"}),
    ("Jazz", "music", "Vol.", {
        "Hard bop": "Quintet", "Swing": "Swing Band", "Cool": "Cool Trio", "Bossa nova": "Bossa Nova"}),
    ("Mystery", "story", "Book", {
        "Village": "Mystery", "Detective": "Casebook", "Heist": "Caper", "Locked room": "Riddle"}),
    ("Board games", "home", "Edition", {
        "Strategy": "Strategy Game", "Cooperative": "Quest", "Family": "Family Game", "Cards": "Card Game"}),
    ("Science fiction", "story", "Book", {
        "Space opera": "Star Saga", "Time travel": "Paradox", "First contact": "Signal", "Robots": "Automaton"}),
    ("Coffee", "table", "Batch", {
        "Espresso": "Espresso", "Filter": "Filter Roast", "Decaf": "Decaf", "Cold brew": "Cold Brew"}),
    ("Classical", "music", "Opus", {
        "Piano": "Nocturnes", "Strings": "String Quartet", "Choir": "Chorale", "Orchestra": "Symphony"}),
    ("Garden", "home", "Packet", {
        "Herbs": "Herb Seeds", "Roses": "Roses", "Bulbs": "Tulip Bulbs", "Wild flowers": "Flower Meadow"}),
    ("Fantasy", "story", "Book", {
        "Epic": "Chronicle", "Fairy tales": "Fairy Tale", "Dragons": "Dragon Song", "Magic school": "Academy"}),
    ("Chocolate", "table", "Box", {
        "Dark": "Dark Chocolate", "Milk": "Milk Chocolate", "Truffles": "Truffles", "Pralines": "Pralines"}),
    ("Folk", "music", "Vol.", {
        "Ballads": "Ballads", "Fiddle": "Fiddle Tunes", "Shanties": "Shanties", "Harp": "Harp Airs"}),
    ("Puzzles", "home", "Set", {
        "Jigsaw": "Jigsaw", "Crosswords": "Crosswords", "Wooden": "Wooden Puzzle", "Logic": "Logic Puzzles"}),
    ("Travel", "story", "Part", {
        "Walking": "Walks", "Railways": "Railway Journey", "Islands": "Island Diary", "Mountains": "Summit Notes"}),
    ("Cheese", "table", "Wheel", {
        "Soft": "Soft Cheese", "Blue": "Blue Cheese", "Hard": "Aged Cheese", "Goat": "Goat Cheese"}),
    ("Electronic", "music", "Vol.", {
        "Ambient": "Ambient Suite", "House": "House Mix", "Synth": "Synth Dreams", "Downtempo": "Slow Beats"}),
    ("Crafts", "home", "Kit", {
        "Knitting": "Knitting Yarn", "Pottery": "Pottery Clay", "Paper": "Paper Craft", "Embroidery": "Embroidery"}),
)  # fmt: skip

SUBCATEGORIES = 4
"""Subcategories of every category."""


@dataclass(frozen=True)
class Shelf:
    """What the names of one subcategory are made of."""

    category: str
    subcategory: str
    nouns: list[str]
    word: str
    volume: str


SHELVES = tuple(
    Shelf(category, subcategory, NOUNS[nouns], word, volume)
    for category, nouns, volume, words in _SHOP
    for subcategory, word in words.items()
)
"""All shelves; shelf s is in category number s // 4."""

_PAIRS = len(ADJECTIVES) * 48
SERIES_PER_SHELF = _PAIRS * (len(PLACES) + 1)
"""Series of a shelf that have different names."""


def item_names(shelf: Ids, place: Ids) -> pl.Series:
    """(n,) names of the items at `place` (0-based) on `shelf` (an index of `SHELVES`)."""
    series, volume = place // VOLUMES, place % VOLUMES + 1
    # A step coprime to the number of pairs visits each pair once, and neighbouring series share no word.
    pair = (series % _PAIRS * 1163 + shelf * 391) % _PAIRS
    region = series // _PAIRS
    nouns = pl.Series([noun for s in SHELVES for noun in s.nouns])
    parts = pl.DataFrame({
        "adjective": pl.Series(ADJECTIVES).gather(pair // 48),
        "noun": nouns.gather(shelf * 48 + pair % 48),
        "word": pl.Series([s.word for s in SHELVES]).gather(shelf),
        "region": pl.Series(["", *(f" from {place}" for place in PLACES)]).gather(region),
        "volume": pl.Series([s.volume for s in SHELVES]).gather(shelf),
        "number": volume,
    })  # fmt: skip
    return parts.select(name=pl.format("{} {} {}{}, {} {}", *parts.columns)).to_series()


def shelf_names(shelf: Ids) -> tuple[pl.Series, pl.Series]:
    """(n,) category and subcategory of each shelf."""
    category = pl.Series("category", [s.category for s in SHELVES]).gather(shelf)
    return category, pl.Series("subcategory", [s.subcategory for s in SHELVES]).gather(shelf)
