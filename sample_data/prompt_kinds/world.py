"""What all kinds of prompts draw from: names, places, goods, sentences around the point, and a random generator.

Each list is cut in two: three fifths of it are for the training prompts alone, two fifths for the validation and test
prompts. Both of these draw from the same part, so that a threshold chosen on one may hold on the other.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import TypeVar

T = TypeVar("T")

Item = tuple[str, str]
"""A prompt and its reference answer."""


def listed(text: str) -> list[str]:
    """`"a b c"` as `["a", "b", "c"]`."""
    return text.split()


def entries(text: str) -> list[str]:
    """`"a|b c|d"` as `["a", "b c", "d"]`; line breaks are spaces."""
    return [" ".join(entry.split()) for entry in text.split("|")]


FIRST_NAMES = listed("""
Maria John Anna Peter Laura David Emma Thomas Sofia Daniel Clara Martin Aisha Kenji Priya Omar Ingrid
Pablo Mei Lukas Fatima Andrei Chloe Samuel Noor Viktor Elena Rashid Greta Mateo Yuki Hannah Ivan Leila
Oscar Nadia Felix Amara Tobias Zoe Karim Astrid Hugo Salma Pierre Bianca Dmitri Ruth Carlos Wanda""")
SURNAMES = listed("""
Keller Okafor Lindqvist Tanaka Moreau Silva Novak Haddad Brandt Castillo Osei Petrov Murphy Rossi Ahmed
Larsen Kowalski Dubois Fischer Mendes Yilmaz Bergman Chandra Walsh Ivanova Romero Schulz Nakamura Costa
Jansen Farouk Pereira Horvat Nielsen Abbott Cheng Vargas Weber Santos Dunne""")
COMPANIES = entries("""Northwind Traders|Blue Harbor|Alder Foods|Kestrel Labs|Granite Press|Lumen Works|Cedar Bank|
Quill Media|Orbit Freight|Maple Health|Ironwood Tools|Sable Textiles|Vertex Energy|Harrow Farms|Pinnacle Books|Delta
Glass|Coral Travel|Summit Audio|Willow Pharma|Beacon Motors|Tundra Coffee|Falcon Print|Opal Insurance|Juniper
Paints|Meridian Bikes""")
CITIES = listed("""Lyon Osaka Leeds Porto Krakow Toronto Bergen Seville Ghent Dallas Cork Malmo Naples Quito Perth Graz
Denver Basel Tampere Lagos Zagreb Bristol Nantes Kobe Austin Turin Bonn Riga Salem Adelaide""")
GOODS = listed("""chairs books bottles tickets lamps boxes pencils cameras jackets plates monitors blankets kettles
notebooks helmets mugs cables towels baskets mirrors tents gloves speakers clocks ladders batteries
pillows printers scarves keyboards""")
WEEKDAYS = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"]
MONTHS = listed("January February March April May June July August September October November December")
FILLERS = entries("""Thanks for the quick reply last week.|I am writing on behalf of our {city} office.|We have had
the same building in {city} for years.|Please copy {name} on the answer.|The team at {company} sits on the third
floor.|I can be reached by phone as well.|My colleague {name} told me to write in short words.|We have been a
customer since the shop opened in {city}.|The weather in {city} is mild for the season.|Our new contact here is
{name} from purchasing.|I hope that this is the right mailbox for it.|This came up in the meeting with {company}.|
The visitors from {city} came by bus.|{name} is on holiday until the end of the month.|Everything else stays as it
is.|The form on your website has new colours.|As {name} explained, we keep the old contract.|I attach the notes of
our call with {company}.|There is no need to print this.|The library in {city} opens at noon.|{company} has sent its
yearly brochure as well.|Let me know if something is unclear.|I have put the signed papers into the blue folder.|The
lift at the {city} branch is being painted.|We have seen the new logo of {company}.|{name} will forward the rest of
the pictures.|Somebody at the desk took down the details.|It is the second time that we work with {company}.|The
train from {city} has six coaches.|Best wishes from the whole team here.""")


class World:
    """One side's part of every list, and a random generator.

    Args:
        held_out: whether for the validation and test prompts, or for the training prompts.
    """

    def __init__(self, rng: random.Random, held_out: bool) -> None:
        self.rng = rng
        self.held_out = held_out

    def part(self, items: Sequence[T]) -> list[T]:
        """The items that this side may use: two of each five are held out."""
        return [item for place, item in enumerate(items) if (place % 5 in (1, 3)) == self.held_out]

    def pick(self, items: Sequence[T]) -> T:
        return self.rng.choice(self.part(items))

    def picks(self, items: Sequence[T], count: int) -> list[T]:
        """Different items, in random order."""
        return self.rng.sample(self.part(items), count)

    def any(self, items: Sequence[T]) -> T:
        """One of a list that both sides use: weekdays, operations, labels."""
        return self.rng.choice(items)

    def whole(self, low: int, high: int) -> int:
        return self.rng.randint(low, high)

    def mixed(self, items: Sequence[T]) -> list[T]:
        return self.rng.sample(list(items), len(items))

    def name(self) -> str:
        return self.pick(FIRST_NAMES)

    def full_name(self) -> str:
        return f"{self.pick(FIRST_NAMES)} {self.pick(SURNAMES)}"

    def company(self) -> str:
        return self.pick(COMPANIES)

    def city(self) -> str:
        return self.pick(CITIES)

    def goods(self) -> str:
        return self.pick(GOODS)

    def order(self) -> str:
        letters = "".join(self.rng.sample("BCDFGHKLMNPRSTVWXZ", 2))
        return f"{letters}-{self.whole(10_000, 99_999)}"

    def price(self, low: int = 3, high: int = 900) -> str:
        return f"{self.whole(low, high)}.{self.whole(1, 99):02d}"

    def email(self) -> str:
        first, last = self.pick(FIRST_NAMES).lower(), self.pick(SURNAMES).lower()
        return f"{first}.{last}@{self.company().split()[0].lower()}.example"

    def phone(self) -> str:
        return f"555-{self.whole(1000, 9999)}"

    def fillers(self, count: int, named: bool = True) -> list[str]:
        """Sentences that have nothing to do with the point; unless `named`, they hold no names."""
        texts = self.part(FILLERS)
        return [
            text.format(name=self.full_name(), city=self.city(), company=self.company())
            for text in self.rng.sample([text for text in texts if named or "{" not in text], count)
        ]

    def around(self, point: str, count: int, named: bool = True) -> str:
        """The sentence that matters, somewhere between `count` others."""
        sentences = self.fillers(count, named)
        sentences.insert(self.whole(0, count), point)
        return " ".join(sentences)


Make = Callable[[World, int], Item]
"""Draws a prompt of a level: 1 easy, 2, 3 hard."""


def pairs(text: str, separator: str = " ") -> list[Item]:
    """`"a b|c d"` as `[("a", "b"), ("c", "d")]`."""
    split = (entry.split(separator, 1) for entry in entries(text))
    return [(left.strip(), right.strip()) for left, right in split]
