"""Makes the demo's prompts: `prompts.parquet` to learn a router from and `backlog.parquet` for the demo job to answer.

    python sample_data/make_prompts.py

Eleven kinds of small tasks with short reference answers. No prompt of the backlog is in `prompts.parquet`. As in real
tables, both hold a few exact duplicates under other ids, and the backlog ends with two rows that no model can answer.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from itertools import product
from pathlib import Path
from typing import TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

SEED = 2404
PROMPTS, PROMPT_DUPLICATES = 300, 8
BACKLOG, BACKLOG_DUPLICATES = 120, 4
BAD_PROMPTS: tuple[str | None, ...] = (None, "   \n")

SCHEMA = pa.schema([(name, pa.string()) for name in ("id", "task", "team", "prompt", "reference")])

Item = tuple[str, str]
"""A prompt and its reference answer."""

Row = dict[str, str | None]

T = TypeVar("T")

CAPITALS = """France Paris|Germany Berlin|Italy Rome|Spain Madrid|Portugal Lisbon|Japan Tokyo|China Beijing|
Egypt Cairo|Russia Moscow|Greece Athens|Norway Oslo|Sweden Stockholm|Finland Helsinki|Denmark Copenhagen|
Poland Warsaw|Austria Vienna|Hungary Budapest|Ireland Dublin|Belgium Brussels|Canada Ottawa|Cuba Havana|Peru Lima|
Chile Santiago|Kenya Nairobi|Thailand Bangkok|Turkey Ankara|Iraq Baghdad|Iran Tehran|Ukraine Kyiv|Romania Bucharest"""

FACTS = """How many legs does a spider have?=8|How many days are there in a week?=7|What colour is grass?=green|
How many months are there in a year?=12|What is frozen water called?=ice|What colour is a ripe banana?=yellow|
Which planet do we live on?=Earth|How many wheels does a bicycle have?=2|What do bees make?=honey|
What is the largest ocean?=Pacific|How many hours are there in a day?=24|What colour is snow?=white|
How many sides does a triangle have?=3|Which animal barks?=dog|What gas do humans need to breathe?=oxygen|
Which star is at the centre of our solar system?=Sun|How many minutes are there in an hour?=60|
Which animal says meow?=cat|What is the tallest animal on land?=giraffe|How many fingers are on one hand?=5|
What colour is coal?=black"""

OPPOSITES = """hot cold|big small|up down|left right|day night|open closed|happy sad|fast slow|light dark|old young|
rich poor|strong weak|wet dry|full empty|early late|high low|hard soft|clean dirty|loud quiet|thick thin|win lose|
buy sell|push pull|true false|near far|inside outside|always never"""

CATEGORIES = {
    "animal": "horse rabbit tiger sparrow goat whale frog elephant salmon monkey bee cow",
    "fruit": "apple banana cherry grape mango pear peach plum lemon melon apricot kiwi",
    "tool": "hammer saw drill wrench screwdriver pliers shovel axe chisel rake spanner pickaxe",
    "colour": "red blue purple pink brown turquoise grey violet crimson beige black white",
}

PLURALS = """cat cats|child children|mouse mice|box boxes|city cities|foot feet|man men|tooth teeth|book books|
woman women|knife knives|baby babies|bus buses|leaf leaves|tree trees|goose geese|dish dishes|wolf wolves|
story stories|potato potatoes|chair chairs|house houses|dog dogs|fox foxes"""

PAST_TENSES = """go went|eat ate|walk walked|run ran|see saw|buy bought|write wrote|play played|take took|sing sang|
swim swam|drink drank|jump jumped|give gave|teach taught|think thought|break broke|fly flew|make made|know knew|
find found|come came|sleep slept|speak spoke|leave left"""

WORDS = """river table garden window mountain pencil yellow market bridge candle forest kitchen rocket silver
dragon button pillow ticket basket winter mirror ladder tunnel velvet napkin harbor jacket camera doctor lantern violin
hotel"""

NAMES = ["Maria", "John", "Anna", "Peter", "Laura", "David", "Emma", "Thomas", "Sofia", "Daniel", "Clara", "Martin"]
COLOURS = ["red", "blue", "green", "yellow", "black", "white", "orange", "purple", "brown", "pink"]
THINGS = ["chairs", "books", "bottles", "tickets", "lamps", "boxes", "pencils", "cameras", "jackets", "plates"]
DAYS = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"]
MONTHS = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
]


def pairs(text: str, separator: str = " ") -> list[Item]:
    """`"a b|c d"` as `[("a", "b"), ("c", "d")]`."""
    split = (entry.strip().split(separator) for entry in text.split("|"))
    return [(left, right) for left, right in split]


def copying(rng: random.Random) -> Iterable[Item]:
    for word in WORDS.split():
        yield f"Repeat this word: {word}", word
    verbs, places = (
        ("lost", "found", "painted", "carried"),
        ("in the park", "at school", "near the station", "on Friday"),
    )
    for name, verb, colour, thing, place in shuffled(rng, product(NAMES, verbs, COLOURS, THINGS, places))[:40]:
        sentence = f"{name} {verb} the {colour} {thing} {place}."
        yield f"Repeat this sentence exactly: {sentence}", sentence


def arithmetic(rng: random.Random) -> Iterable[Item]:
    for a, b in shuffled(rng, product(range(2, 10), repeat=2))[:20]:
        yield f"What is {a} + {b}?", str(a + b)
    for a, b in shuffled(rng, product(range(11, 60), range(11, 40)))[:20]:
        yield f"What is {a} + {b}?", str(a + b)
    for a, b in shuffled(rng, product(range(5, 20), range(2, 9)))[:20]:
        if a > b:
            yield f"What is {a} - {b}?", str(a - b)
    for a, b in shuffled(rng, product(range(2, 10), repeat=2))[:20]:
        yield f"What is {a} times {b}?", str(a * b)


def facts(rng: random.Random) -> Iterable[Item]:
    yield from ((f"What is the capital of {country}?", city) for country, city in pairs(CAPITALS))
    yield from pairs(FACTS, "=")


def opposites(rng: random.Random) -> Iterable[Item]:
    for one, other in pairs(OPPOSITES):
        yield f"What is the opposite of {one}?", other
        yield f"What is the opposite of {other}?", one


def sentiment(rng: random.Random) -> Iterable[Item]:
    things = (
        "The film",
        "The food",
        "The hotel",
        "Their service",
        "This phone",
        "The concert",
        "The book",
        "My new bike",
    )
    verdicts = {
        "positive": ("was wonderful", "made me very happy", "is the best I know", "was a lovely surprise"),
        "negative": ("was awful", "made me angry", "is the worst I know", "was a waste of money"),
    }
    for label, endings in verdicts.items():
        for thing, ending in product(things, endings):
            yield f"Is this review positive or negative? {thing} {ending}.", label


def extraction(rng: random.Random) -> Iterable[Item]:
    for name, count, colour, thing in shuffled(rng, product(NAMES, range(11, 99), COLOURS, THINGS))[:20]:
        sentence = f"{name} ordered {count} {colour} {thing}."
        yield f"{sentence} How many {thing} were ordered?", str(count)
        yield f"{sentence} What colour are the {thing}?", colour
        yield f"{sentence} Who ordered the {thing}?", name


def letters(rng: random.Random) -> Iterable[Item]:
    for word in WORDS.split():
        yield f"Write this word in uppercase: {word}", word.upper()
        yield f"What is the first letter of the word {word}?", word[0]


def comparison(rng: random.Random) -> Iterable[Item]:
    for a, b in shuffled(rng, product(range(3, 99), repeat=2))[:60]:
        if a != b:
            yield f"Is {a} greater than {b}? Answer yes or no.", "yes" if a > b else "no"
            yield f"Which number is larger, {b} or {a}?", str(max(a, b))


def sequences(rng: random.Random) -> Iterable[Item]:
    for items, noun in ((DAYS, "day"), (MONTHS, "month")):
        for before, item, after in zip([items[-1], *items], items, [*items[1:], items[0]], strict=False):
            yield f"Which {noun} comes after {item}?", after
            yield f"Which {noun} comes before {item}?", before
    for start, step in product((2, 5, 10, 20, 31), (1, 2, 5, 10)):
        yield f"Complete the list: {start}, {start + step}, {start + 2 * step},", str(start + 3 * step)


def categories(rng: random.Random) -> Iterable[Item]:
    for category, members in CATEGORIES.items():
        for member in members.split():
            yield f"Is {member} an animal, a fruit, a tool or a colour?", category


def grammar(rng: random.Random) -> Iterable[Item]:
    yield from ((f"What is the plural of {one}?", many) for one, many in pairs(PLURALS))
    yield from ((f"What is the past tense of {now}?", past) for now, past in pairs(PAST_TENSES))


KINDS: dict[str, tuple[Callable[[random.Random], Iterable[Item]], tuple[str, ...]]] = {
    "copying": (copying, ("content", "support")),
    "arithmetic": (arithmetic, ("finance",)),
    "facts": (facts, ("research", "content")),
    "opposites": (opposites, ("content",)),
    "sentiment": (sentiment, ("support", "research")),
    "extraction": (extraction, ("support", "finance")),
    "letters": (letters, ("content",)),
    "comparison": (comparison, ("finance", "research")),
    "sequences": (sequences, ("finance", "support")),
    "categories": (categories, ("research", "support")),
    "grammar": (grammar, ("content", "research")),
}


def shuffled(rng: random.Random, items: Iterable[T]) -> list[T]:
    pool = list(items)
    rng.shuffle(pool)
    return pool


def pools(seed: int) -> dict[str, list[Item]]:
    """Every kind's distinct prompts in random order."""
    made = {}
    for task, (make, _) in KINDS.items():
        rng = random.Random(f"{seed}/{task}")
        # A dict and not a set: the order of a set of strings changes from one process to the next.
        made[task] = shuffled(rng, dict.fromkeys(make(rng)))
    return made


def rows(items: Iterable[tuple[str, Item]], prefix: str, duplicates: int, rng: random.Random) -> list[Row]:
    """Rows in random order, `duplicates` of them a second time under another id."""
    chosen = shuffled(rng, items)
    chosen = shuffled(rng, chosen + rng.sample(chosen, duplicates))
    return [
        {
            "id": f"{prefix}-{number:04d}",
            "task": task,
            "team": rng.choice(KINDS[task][1]),
            "prompt": prompt,
            "reference": reference,
        }
        for number, (task, (prompt, reference)) in enumerate(chosen)
    ]


def main() -> None:
    folder = Path(__file__).parent
    rng = random.Random(SEED)
    turns = [item for turn in zip(*pools(SEED).values(), strict=False) for item in zip(KINDS, turn, strict=True)]
    to_learn_from = PROMPTS - PROMPT_DUPLICATES
    to_answer = BACKLOG - BACKLOG_DUPLICATES - len(BAD_PROMPTS)
    prompts = rows(turns[:to_learn_from], "p", PROMPT_DUPLICATES, rng)
    backlog = rows(turns[to_learn_from : to_learn_from + to_answer], "b", BACKLOG_DUPLICATES, rng)
    assert (len(prompts), len(backlog)) == (PROMPTS, BACKLOG - len(BAD_PROMPTS)), "a kind has too few prompts"
    for bad in BAD_PROMPTS:
        backlog.append(
            {"id": f"b-{len(backlog):04d}", "task": "facts", "team": "support", "prompt": bad, "reference": None}
        )
    for name, table in (("prompts", prompts), ("backlog", backlog)):
        pq.write_table(pa.Table.from_pylist(table, schema=SCHEMA), folder / f"{name}.parquet")
        print(f"{folder.name}/{name}.parquet: {len(table)} rows")


if __name__ == "__main__":
    main()
