"""Sums in words: how many, what share, what price, how long."""

from __future__ import annotations

from datetime import date, timedelta

from prompt_kinds.normalising import in_words
from prompt_kinds.world import MONTHS, Item, World, entries

ADDING = entries("""{name} has {a} {goods} and buys {b} more. How many are there now?|{city} sends {a} {goods} and
{name} adds {b}. How many together?|{company} made {a} {goods} on one day and {b} on the next. How many in all?|On
one shelf lie {a} {goods}, on another {b}. What is the total?|{a} {goods} are in {city} and {b} in the van of
{name}. What is the sum?""")
TAKING = entries("""{name} has {a} {goods} and gives {b} away. How many are left?|Of {a} {goods} in {city}, {b} were
sold. How many remain?|{company} had {a} {goods} and lost {b}. How many does it still have?|{b} of the {a} {goods}
that {name} brought are broken. How many are whole?|From {a} {goods} the shop in {city} takes {b}. What is left?""")
TIMES = entries("""{name} packs {b} boxes with {a} {goods} each. How many {goods} is that?|{b} shops of {company}
get {a} {goods} each. How many in all?|Each of {b} vans to {city} holds {a} {goods}. How many do they hold
together?|{name} makes {a} {goods} a day for {b} days. How many in total?|There are {b} rows of {a} {goods} in
{city}. What is the number of {goods}?""")


def fields(world: World) -> dict[str, str]:
    return {"name": world.name(), "goods": world.goods(), "city": world.city(), "company": world.company()}


def arithmetic(world: World, level: int) -> Item:
    """Numbers in words."""
    kind = world.any([ADDING, TAKING, TIMES])
    a = world.whole(*{1: (6, 19), 2: (21, 98), 3: (101, 899)}[level])
    b = world.whole(2, 5) if kind is TIMES else world.whole(2, min(a - 1, 99))
    number = a + b if kind is ADDING else a - b if kind is TAKING else a * b
    asked = world.pick(kind).format(a=in_words(a), b=in_words(b), **fields(world))
    return f"{asked[0].upper()}{asked[1:]} Answer with a number.", str(number)


def word_problem(world: World, level: int) -> Item:
    """Two to four steps."""
    a, b, c = world.whole(3, 12), world.whole(2, 9), world.whole(2, 9)
    a = 2 * a if level == 3 else a  # for the halves
    texts = {
        1: [
            ("{name} buys {b} packs of {a} {goods} and gives {c} {goods} away.", a * b - c),
            ("{name} had {a} {goods}, found {b} in {city} and got {c} from a friend.", a + b + c),
            ("In {city}, {name} fills {b} shelves with {a} {goods} each and puts {c} more on the floor.", a * b + c),
            ("{company} ships {a} {goods} a day to {city} for {b} days, and {c} come back.", a * b - c),
            (
                "A van of {company} leaves with {b} crates of {a} {goods} and takes up {c} {goods} on the way.",
                a * b + c,
            ),
        ],
        2: [
            (
                "{name} buys {b} packs of {a} {goods}, and {other} buys {c} packs of the same size. "
                "They put all together.",
                (b + c) * a,
            ),
            ("{name} has {a} {goods}. {other} has {b} times as many. They sell {c} of all these.", a + a * b - c),
            ("{company} has {b} shops with {a} {goods} each and {c} shops with {b} {goods} each.", a * b + b * c),
            (
                "Each of {b} rooms in {city} gets {a} {goods}; then {other} takes {c} of them to each of 2 schools.",
                a * b - 2 * c,
            ),
            (
                "{name} earns {a} dollars an hour for {b} hours in {city} and spends {c} dollars on "
                "lunch and 2 on the bus.",
                a * b - c - 2,
            ),
        ],
        3: [
            (
                "{name} has {a} {goods}, twice as many as {third}. {other} has {c} more than {name} "
                "and {third} together.",
                a + a // 2 + c,
            ),
            (
                "{company} makes {b} {goods} an hour, 8 hours a day, for 5 days, and throws {c} away each day.",
                5 * (8 * b - c),
            ),
            (
                "{name} packs {a} {goods} an hour and {other} {b}. Both work {c} hours, then {other} "
                "works 2 hours more.",
                (a + b) * c + 2 * b,
            ),
            (
                "A crate holds {a} {goods}. {city} gets {b} crates, {other} takes half of the "
                "{goods} and returns {c} {goods}.",
                a * b // 2 + c,
            ),
            (
                "{third} has {b} {goods}, {other} three times as many and {name} {c} more than {other}. They pool all.",
                7 * b + c,
            ),
        ],
    }[level]
    text, number = world.pick(texts)
    if number < 1:
        return word_problem(world, level)
    one, two, three = world.picks(entries("Maria|John|Anna|Peter|Laura|David|Emma|Thomas|Sofia|Daniel"), 3)
    names = {**fields(world), "name": one, "other": two, "third": three}
    ends = (
        "How much money is left?"
        if "earns" in text
        else "How many {goods} does {other} have?"
        if "twice" in text
        else None
    )
    if ends is None:
        ends = world.pick(
            entries("""How many {goods} are there in the end?|What is the final number of {goods}?|How
many {goods} does that make?|Give the number of {goods} at the end.|How many {goods} are on hand then?""")
        )
    return f"{text} {ends} Answer with a number.".format(a=a, b=b, c=c, **names), str(number)


def percent(world: World, level: int) -> Item:
    rate = world.any([10, 20, 25, 50] if level == 1 else [5, 15, 30, 40, 60, 75])
    base = world.whole(2, 40) * 20
    part = base * rate // 100
    if level < 3:
        asked = world.pick(
            entries("""{r}% of the {n} {goods} in {city} are new. How many are new?|Of {n} {goods},
{company} returns {r}%. How many go back?|{name} checks {r}% of {n} {goods}. How many are checked?|{r}% of {n}
{goods} sent to {city} arrive late. How many is that?|{company} paints {r}% of its {n} {goods}. How many does it
paint?""")
        )
        return asked.format(r=rate, n=base, **fields(world)) + " Answer with a number.", str(part)
    asked = world.pick(
        entries("""{goods} of {company} for {n} dollars get {r}% cheaper. What do they cost then?|
{name} pays {n} dollars less a discount of {r}% for {goods}. How many dollars is that?|Of {n} {goods} in {city},
{r}% are sold. How many are left?|{company} had {n} {goods}, and {r}% burned in {city}. How many remain?|A bill of
{n} dollars for {goods} is cut by {r}%. What is the new sum in dollars?""")
    )
    text = asked.format(r=rate, n=base, **fields(world))
    return f"{text[0].upper()}{text[1:]} Answer with a number.", str(base - part)


def change(world: World, level: int) -> Item:
    """By how many percent something grew or shrank."""
    old = world.whole(1, 12) * (100 if level == 1 else 20 if level == 2 else 40)
    rate = world.any([10, 20, 50, 100] if level == 1 else [5, 15, 25, 35, 40, 60, 80, 90])
    down = level == 3 and rate < 100
    new = old * (100 - rate if down else 100 + rate) // 100
    word = "fell" if down else "rose"
    asked = world.pick(
        entries("""The sales of {goods} in {city} {w} from {o} to {n}. By how many percent did they
change?|{company} {w2} its stock of {goods} from {o} to {n}. What is the change in percent?|From {o} to {n}: so {w}
the number of {goods} that {name} sold. How many percent is that?|Orders of {goods} at {company} {w} from {o} to
{n}. Give the percentage by which they {w}.|The price of {goods} in {city} {w} from {o} to {n} dollars. By what
percentage?""")
    )
    text = asked.format(w=word, w2="cut" if down else "raised", o=old, n=new, **fields(world))
    return f"{text} Answer like 12%, without a sign.", f"{rate}%"


def unit_price(world: World, level: int) -> Item:
    count, each = world.whole(2, 9 if level == 1 else 24), world.whole(2, 30)
    cents = 0 if level == 1 else world.any([25, 50, 75])
    total = count * (each * 100 + cents)
    asked = world.pick(
        entries("""{name} pays {t} dollars for {k} {goods} in {city}. What does one cost, in
dollars?|A set of {k} {goods} from {company} costs {t} dollars. What is the price of one in dollars?|{k} {goods} are
{t} dollars at {company}. How many dollars each?|The bill of {name} says {k} {goods}, {t} dollars. Give the unit
price in dollars.|For {t} dollars {company} sells {k} {goods}. Price of a single one in dollars?""")
    )
    shown = f"{total / 100:.2f}"
    if level == 3:
        postage = world.whole(3, 9)
        shown = f"{total / 100 + postage:.2f}"
        asked = f"{postage} dollars of the sum are postage, which does not count. " + asked
    price = f"{each}.{cents:02d}"
    return asked.format(t=shown.removesuffix(".00"), k=count, **fields(world)) + " Number only.", price.removesuffix(
        ".00"
    )


def duration(world: World, level: int) -> Item:
    start = world.whole(7, 16) * 60 + (world.any([0, 30]) if level == 1 else world.whole(0, 59))
    length = world.any([30, 60, 90, 120]) if level == 1 else world.whole(11, 59) if level == 2 else world.whole(70, 290)
    times = [f"{minute // 60}:{minute % 60:02d}" for minute in (start, start + length)]
    asked = world.pick(
        entries("""The train of {name} to {city} leaves at {0} and arrives at {1}. How many minutes
does it take?|{name} talks with {company} from {0} to {1}. How long is that in minutes?|A film about {city} runs
from {0} to {1}. How many minutes is it?|At {0} {company} begins to load {goods}, at {1} it ends. How many minutes
passed?|{name} cleans the {goods} from {0} until {1}. Number of minutes?""")
    )
    return asked.format(*times, **fields(world)) + " Answer with a number.", str(length)


def days_between(world: World, level: int) -> Item:
    first = date(world.whole(2021, 2027), world.whole(1, 12), world.whole(1, 9 if level == 1 else 28))
    days = world.whole(2, 18) if level == 1 else world.whole(3, 29) if level == 2 else world.whole(31, 75)
    last = first + timedelta(days=days)
    shown = [
        f"{day.day} {MONTHS[day.month - 1]}" + (f" {day.year}" if first.year != last.year else "")
        for day in (first, last)
    ]
    year = "" if first.year != last.year else f" of {first.year}"
    asked = world.pick(
        entries("""{name} orders {goods} on {0} and gets them on {1}{y}. How many days later is
that?|The fair in {city} is announced on {0} and held on {1}{y}. How many days lie between?|{company} bills on {0}
and is paid on {1}{y}. After how many days?|From {0} to {1}{y}, {name} waits for {goods}. How many days is the
difference?|A rental of {goods} by {company} begins on {0}, ends on {1}{y}. Days from first to last date?""")
    )
    return asked.format(*shown, y=year, **fields(world)) + " Answer with a number.", str(days)


KINDS = {
    "arithmetic": (arithmetic, ("finance",)),
    "word_problem": (word_problem, ("finance", "research")),
    "percent": (percent, ("finance",)),
    "change": (change, ("finance", "research")),
    "unit_price": (unit_price, ("finance",)),
    "duration": (duration, ("support",)),
    "days_between": (days_between, ("finance", "support")),
}
