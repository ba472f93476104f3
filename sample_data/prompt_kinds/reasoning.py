"""Working something out step by step: comparisons, orders, series, and what code gives."""

from __future__ import annotations

from itertools import pairwise

from prompt_kinds.arithmetic import fields
from prompt_kinds.normalising import LIST_WORDS
from prompt_kinds.world import Item, World, entries


def compare(world: World, level: int) -> Item:
    one, two = world.goods(), world.goods()
    if one == two:
        return compare(world, level)
    if level == 1:
        a, b = world.whole(2, 99), world.whole(100, 900)
        shown = {one: f"{a} kg", two: f"{b} kg"}
    elif level == 2:
        whole = world.whole(2, 9) * 100
        a, b = (whole + digits for digits in world.rng.sample([5, 50, 8, 80, 9, 90, 15, 25], 2))
        shown = {one: f"{a / 100:.2f} kg", two: f"{b / 100:.2f} kg".replace("0 kg", " kg")}
    else:
        a, b = world.rng.sample(range(150, 990), 2)
        shown = {one: f"{a / 1000:.3f} kg", two: f"{b} g"}
    if a == b:
        return compare(world, level)
    more = world.any([True, False])
    asked = world.pick(
        entries("""Which weigh {w}, the {0} or the {1}?|Are the {0} or the {1} {h}?|Name the {h}
goods: {0} or {1}.|Tell whether {0} or {1} are {h}.|Of {0} and {1}, which are {h}?""")
    ).format(*world.mixed([one, two]), w="more" if more else "less", h="heavier" if more else "lighter")
    told = world.pick(
        entries("""{name} in {city} weighs two parcels: {0} {x}, {1} {y}.|{company} sends {0} of {x}
and {1} of {y} to {city}.|The {0} for {name} weigh {x}, the {1} {y}.|On the scales of {company}: {1} {y}, {0} {x}.|
{city} gets {1} with {y} and {0} with {x}.""")
    )
    text = told.format(one, two, x=shown[one], y=shown[two], **fields(world))
    return f"{text} {asked}", one if (a > b) == more else two


def ranking(world: World, level: int) -> Item:
    """Who is first or last, from comparisons of neighbours."""
    people = world.picks(
        entries("""Maria|John|Anna|Peter|Laura|David|Emma|Thomas|Sofia|Daniel|Clara|Martin|Aisha|Kenji|Priya|Omar|Ingrid|
Pablo|Mei|Lukas"""),
        level + 2,
    )
    than, most, least = world.pick(
        [
            ("older than", "oldest", "youngest"),
            ("taller than", "tallest", "shortest"),
            ("faster than", "fastest", "slowest"),
            ("richer than", "richest", "poorest"),
            ("stronger than", "strongest", "weakest"),
        ]
    )
    facts = [f"{one} is {than} {other}." for one, other in pairwise(people)]
    facts = facts if level == 1 else world.mixed(facts)
    top = world.any([True, False])
    asked = world.pick(
        entries(
            "Who is the {0}?|Name the {0} of them.|Which of them is the {0}?|The {0} one is who?|Return the {0} person."
        )
    )
    where = f"In the {world.city()} office of {world.company()},"
    return f"{where} {' '.join(facts)} {asked.format(most if top else least)}", people[0] if top else people[-1]


def sequence(world: World, level: int) -> Item:
    start, step = world.whole(2, 60), world.whole(2, 9)
    if level == 1:
        terms = [start + step * i for i in range(5)]
    elif level == 2:
        down = world.any([True, False])
        terms = [start + 40 - step * i if down else (start % 7 + 2) * 2**i for i in range(5)]
    else:
        terms = [start]
        for i in range(5):
            terms.append(terms[-1] + step + i)
    shown = ", ".join(map(str, terms[:-1]))
    asked = world.pick(
        entries("""Which number comes next?|Continue the series by one number.|What is the next
number?|Give the number that follows.|Name the next term.|Complete it with one more number.|What follows?""")
    )
    told = world.pick(
        entries("""{name} sees these house numbers in {city}: {0}.|The meter at {company} showed {0}.|
A quiz by {name} has the series {0}.|The weekly orders of {goods} were {0}.|On a wall in {city} stands {0}.""")
    )
    return f"{told.format(shown, **fields(world))} {asked}", str(terms[-1])


def python(world: World, level: int) -> Item:
    words = world.picks(LIST_WORDS, 3)
    numbers = world.rng.sample(range(2, 30), 5)
    k = world.whole(2, 5)
    code, value = world.pick(
        {
            1: [
                (f"len({words})", len(words)),
                (f"max({numbers})", max(numbers)),
                (f"{numbers[0]} + {numbers[1]} * {k}", numbers[0] + numbers[1] * k),
                (f"'{words[0]}'.upper()[0]", words[0].upper()[0]),
                (f"{words}[1]", words[1]),
                (f"sum({numbers[:3]})", sum(numbers[:3])),
                (f"'{words[0]}'[0] + '{words[1]}'[0]", words[0][0] + words[1][0]),
                (f"{numbers[0] + 30} - {numbers[1]}", numbers[0] + 30 - numbers[1]),
                (f"min({numbers})", min(numbers)),
                (f"{numbers}[0]", numbers[0]),
            ],
            2: [
                (f"{numbers[0]} // {k}", numbers[0] // k),
                (f"{numbers[0]} % {k}", numbers[0] % k),
                (f"'{words[0]}'[::-1]", words[0][::-1]),
                (f"sorted({words})[0]", sorted(words)[0]),
                (f"'-'.join({words[:2]})", "-".join(words[:2])),
                (f"{numbers}[-1]", numbers[-1]),
                (f"sorted({numbers})[1]", sorted(numbers)[1]),
                (f"len('{words[0]}') * {k}", len(words[0]) * k),
                (f"'{words[0]} {words[1]}'.split()[1]", words[1]),
                (f"{numbers}.index({numbers[k - 1]})", k - 1),
            ],
            3: [
                (f"sum(x for x in {numbers} if x > {k + 7})", sum(x for x in numbers if x > k + 7)),
                (f"len([x for x in {numbers} if x % 2])", len([x for x in numbers if x % 2])),
                (f"max({words}, key=len)", max(words, key=len)),
                (f"sum({numbers}[1:3])", sum(numbers[1:3])),
                (f"{{w: len(w) for w in {words}}}['{words[1]}']", len(words[1])),
                (f"[x * {k} for x in {numbers}][2]", numbers[2] * k),
                (f"''.join(w[0] for w in {words})", "".join(w[0] for w in words)),
                (f"sum(range({k}, {k + 4}))", sum(range(k, k + 4))),
                (f"sorted({numbers}, reverse=True)[2]", sorted(numbers, reverse=True)[2]),
                (f"len(set({numbers[:3] + numbers[1:4]}))", 4),
            ],
        }[level]
    )
    if str(value) == "a":
        return python(world, level)
    asked = world.pick(
        entries("""What does this Python expression give?|Evaluate this Python.|Which value has this
Python expression?|What is the result in Python?|Python prints what for this?""")
    )
    who = f"{world.full_name()} of {world.company()} asks about a line for {world.goods()}."
    return f"{who} {asked} {code}", str(value)


def sql(world: World, level: int) -> Item:
    goods = world.picks(
        entries("""chairs|books|bottles|tickets|lamps|boxes|pencils|cameras|jackets|plates|mugs|tents|clocks|gloves|
towels"""),
        4,
    )
    counts = world.rng.sample(range(2, 40), 4)
    table = dict(zip(goods, counts, strict=True))
    limit = sorted(counts)[world.whole(1, 2)]
    over = [value for value in counts if value > limit]
    query, value = world.pick(
        {
            1: [
                ("SELECT COUNT(*) FROM stock", 4),
                ("SELECT MAX(n) FROM stock", max(counts)),
                (f"SELECT n FROM stock WHERE item = '{goods[2]}'", counts[2]),
                ("SELECT MIN(n) FROM stock", min(counts)),
                (f"SELECT item FROM stock WHERE n = {counts[1]}", goods[1]),
            ],
            2: [
                (f"SELECT COUNT(*) FROM stock WHERE n > {limit}", len(over)),
                ("SELECT item FROM stock ORDER BY n LIMIT 1", min(goods, key=table.__getitem__)),
                ("SELECT item FROM stock ORDER BY n DESC LIMIT 1", max(goods, key=table.__getitem__)),
                ("SELECT MAX(n) - MIN(n) FROM stock", max(counts) - min(counts)),
                ("SELECT item FROM stock ORDER BY item LIMIT 1", min(goods)),
            ],
            3: [
                (f"SELECT SUM(n) FROM stock WHERE n > {limit}", sum(over)),
                ("SELECT SUM(n) FROM stock", sum(counts)),
                ("SELECT item FROM stock ORDER BY n DESC LIMIT 1 OFFSET 1", sorted(goods, key=table.__getitem__)[-2]),
                (
                    f"SELECT COUNT(*) FROM stock WHERE n >= {limit} AND item <> '{goods[0]}'",
                    sum(table[item] >= limit for item in goods[1:]),
                ),
                (f"SELECT SUM(n) FROM stock WHERE item IN ('{goods[0]}', '{goods[3]}')", counts[0] + counts[3]),
            ],
        }[level]
    )
    asked = world.pick(
        entries("""What does the query return?|Which single value comes back?|Give the result of the
query.|What is the answer of this SQL?|Evaluate the query.""")
    )
    rows = ", ".join(f"('{item}', {n})" for item, n in table.items())
    return f"The {world.city()} table stock(item, n) of {world.company()} holds {rows}. {asked} {query};", str(value)


KINDS = {
    "compare": (compare, ("research",)),
    "ranking": (ranking, ("research",)),
    "sequence": (sequence, ("research", "finance")),
    "python": (python, ("research",)),
    "sql": (sql, ("research", "finance")),
}
