"""One way to write a thing into another: dates, times, units, numbers, lists, misspelled words."""

from __future__ import annotations

from collections.abc import Callable
from datetime import date, timedelta

from prompt_kinds.world import MONTHS, WEEKDAYS, Item, World, entries, listed, pairs

LETTERS_FROM = entries("""The {goods} invoice says|{company} wrote|On the form of {name} stands|The ticket from
{city} shows|{name} typed|The label on the {goods} reads|In the log of {company} we found|A note from {city} gives|
The {city} calendar has|The file of {name} holds""")


def source(world: World) -> str:
    """Where a value stands: `"The ticket from Porto shows"`."""
    return world.pick(LETTERS_FROM).format(
        goods=world.goods(), company=world.company(), name=world.full_name(), city=world.city()
    )


def iso_date(world: World, level: int) -> Item:
    day = date(2015, 1, 1) + timedelta(days=world.whole(0, 5500))
    month = MONTHS[day.month - 1]
    ending = "th" if 10 < day.day < 14 else {1: "st", 2: "nd", 3: "rd"}.get(day.day % 10, "th")
    written = world.any(
        {
            1: [f"{day.day} {month} {day.year}", f"{month} {day.day}, {day.year}"],
            2: [
                f"{day.day}. {month[:3]} {day.year}",
                f"{month[:3]} {day.day}{ending} {day.year}",
                f"{day.day:02d}-{month[:3]}-{day.year}",
            ],
            3: [
                f"{day.day:02d}.{day.month:02d}.{day.year} (day first)",
                f"{day.month}/{day.day}/{day.year % 100:02d} (month first)",
            ],
        }[level]
    )
    asked = world.pick(
        entries("""Write the date as YYYY-MM-DD.|Normalise the date to YYYY-MM-DD.|Give it in ISO form, YYYY-MM-DD.|
Convert the date into the form YYYY-MM-DD.|Which date is that in the format YYYY-MM-DD?|Put the date as
year-month-day with dashes.|Turn it into YYYY-MM-DD.""")
    )
    return f"{source(world)}: {written}. {asked}", day.isoformat()


def clock(world: World, level: int) -> Item:
    hour, minute = world.whole(1, 11 if level == 1 else 12), world.whole(0, 59)
    half = world.any(["am", "pm"]) if level > 1 else "pm"
    full = hour % 12 + (12 if half == "pm" else 0)
    asked = world.pick(
        entries("""Write the time on the 24-hour clock as HH:MM.|Convert it to 24-hour time, HH:MM.|Which time is
that from 00:00 to 23:59?|Normalise to HH:MM, 24 hours.|Give the time in the 24-hour form HH:MM.|What is it on a
24-hour clock (HH:MM)?|Turn it into HH:MM without am or pm.""")
    )
    shown = {1: f"{hour}:{minute:02d} {half}", 2: f"{hour}.{minute:02d}{half}"}.get(level)
    if not shown:
        later = world.any([2, 3, 5, 7])
        return (
            f"{source(world)}: {hour}:{minute:02d} {half}, then {later} hours later the {world.goods()} leave. "
            f"{asked} Give the later time.",
            f"{(full + later) % 24:02d}:{minute:02d}",
        )
    return f"{source(world)}: {shown}. {asked}", f"{full:02d}:{minute:02d}"


UNITS = {
    1: pairs(
        """kilometres metres=1000|metres centimetres=100|kilograms grams=1000|hours minutes=60|litres
millilitres=1000|minutes seconds=60|weeks days=7|centimetres millimetres=10|tonnes kilograms=1000|years months=12""",
        "=",
    ),
    2: pairs(
        """days hours=24|feet inches=12|dozens pieces=12|gigabytes megabytes=1000|euros cents=100|yards feet=3|
decades years=10|kilowatts watts=1000|gallons quarts=4|metres millimetres=1000""",
        "=",
    ),
}


def units(world: World, level: int) -> Item:
    names, factor = world.pick(UNITS[1 if level == 1 else 2] if level < 3 else UNITS[1])
    big, small = names.split()
    asked = world.pick(
        entries("""How many {0} is that? Give the number.|Convert to {0}, number only.|What is it in {0}?|Express it
in {0}.|Give the same quantity in {0}.|Normalise to {0} and return the number.|Number of {0}?""")
    ).format(small)
    if level < 3:
        amount = world.whole(2, 9 if level == 1 else 25)
        return f"{source(world)}: {amount} {big}. {asked}", str(amount * int(factor))
    whole, rest = world.whole(2, 9), world.whole(1, int(factor) - 1)
    return f"{source(world)}: {whole} {big} and {rest} {small}. {asked}", str(whole * int(factor) + rest)


ONES = listed("""zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen
seventeen eighteen nineteen""")
TENS = listed("zero ten twenty thirty forty fifty sixty seventy eighty ninety")


def in_words(number: int) -> str:
    if number < 20:
        return ONES[number]
    if number < 100:
        return TENS[number // 10] + (f"-{ONES[number % 10]}" if number % 10 else "")
    if number < 1000:
        return f"{ONES[number // 100]} hundred" + (f" and {in_words(number % 100)}" if number % 100 else "")
    return f"{in_words(number // 1000)} thousand" + (f" {in_words(number % 1000)}" if number % 1000 else "")


def number_words(world: World, level: int) -> Item:
    number = world.whole(*{1: (21, 99), 2: (101, 999), 3: (1001, 99_999)}[level])
    asked = world.pick(
        entries("""Write the number in digits.|Give it as a number in digits.|Convert to digits.|Which number is
that, in digits?|Digits only, please.|Normalise the number to digits.|How is this written with digits?""")
    )
    return f"{source(world)}: {in_words(number)} {world.goods()}. {asked}", str(number)


def short_numbers(world: World, level: int) -> Item:
    number = world.whole(11, 99)
    shown, value = {
        1: (f"{number}k", number * 1000),
        2: (f"{number // 10}.{number % 10}k", number * 100),
        3: (f"{number // 10}.{number % 10}{world.whole(1, 9)}M", 0),
    }[level]
    value = value or int(shown[0] + shown[2:4]) * 10_000
    asked = world.pick(
        entries("""Write the number out in full, digits only.|Expand the short form to all its digits.|Which full
number is meant?|Give the number without the letter.|Turn the short form into a plain number.|Normalise to a plain
number.|Full number, please.""")
    )
    return f"{source(world)}: {shown} {world.goods()} a year. {asked}", str(value)


LIST_WORDS = listed("""
apple river stone candle window bridge garden pencil silver market forest rocket button pillow winter
mirror ladder tunnel basket jacket violin lantern meadow copper thunder blanket harvest marble saddle
whistle cotton ginger hammer island jungle kitten lemon magnet needle olive parrot quilt ribbon shovel
turtle umbrella velvet walnut yogurt zipper anchor barrel carpet dragon engine feather guitar helmet
insect jigsaw""")


def deduplicate(world: World, level: int) -> Item:
    words = world.picks(LIST_WORDS, level + 1)
    repeated = words + world.rng.choices(words, k=level)
    order = list(dict.fromkeys(world.mixed(repeated)))
    shown = order + world.rng.choices(order, k=level)
    asked = world.pick(
        entries("""Remove the duplicates and keep the order: {0}.|Deduplicate this list, first occurrences stay:
{0}.|List each value once, in order: {0}.|Which distinct values are there, in order of first appearance? {0}.|Drop
repeated entries, keep the rest in place: {0}.|Give the unique values in their order: {0}.|Write every word of this
list only once, in order: {0}.""")
    )
    return f"{source(world)} a list. {asked.format(', '.join(shown))} Separate them by commas.", ", ".join(order)


def sort(world: World, level: int) -> Item:
    asked = world.pick(
        entries("""Sort {1}: {0}.|Put these in order, {1}: {0}.|Order the list {1}: {0}.|Arrange {1}: {0}.|Give
these {1}: {0}.|Bring {0} into order, {1}.|Write the values {0} {1}.""")
    )
    if world.any([True, False]):
        words = world.picks(LIST_WORDS, level + 2)
        how, done = "alphabetically", sorted(words)
        if level == 3:
            how, done = "in reverse alphabetical order", sorted(words, reverse=True)
        shown = ", ".join(words)
    else:
        numbers = world.rng.sample(range(2, 99 if level < 3 else 999), level + 2)
        down = level > 1 and world.any([True, False])
        how = "from largest to smallest" if down else "from smallest to largest"
        shown, done = ", ".join(map(str, numbers)), list(map(str, sorted(numbers, reverse=down)))
    return f"{source(world)} a list. {asked.format(shown, how)} Separate them by commas and spaces.", ", ".join(done)


def count(world: World, level: int) -> Item:
    words = world.picks(LIST_WORDS, 3)
    shown = world.rng.choices(words, k=3 + 2 * level)
    asked = {
        1: "How many entries does this list have: {0}?",
        2: "How often does {1} occur in this list: {0}?",
        3: "How many entries of this list are not {1}: {0}?",
    }[level]
    asked = asked.format(", ".join(shown), words[0])
    number = {1: len(shown), 2: shown.count(words[0]), 3: len(shown) - shown.count(words[0])}[level]
    ending = world.pick(entries("Answer with a number.|Give the count.|Count them.|Digits only.|Return the number."))
    return f"{source(world)} a list. {asked} {ending}", str(number)


MISSPELLED = pairs("""recieve receive|seperate separate|definately definitely|occured occurred|adress address|
begining beginning|beleive believe|calender calendar|comittee committee|enviroment environment|goverment government|
gramar grammar|independant independent|knowlege knowledge|libary library|neccessary necessary|noticable noticeable|
occassion occasion|posession possession|prefered preferred|publically publicly|recomend recommend|refered referred|
rythm rhythm|succesful successful|suprise surprise|tommorow tomorrow|truely truly|untill until|wich which|wierd
weird|acommodate accommodate|arguement argument|concious conscious|embarass embarrass|existance existence|foriegn
foreign|freind friend|garantee guarantee|happend happened|immediatly immediately|maintainance maintenance|medecine
medicine|miniture miniature|parliment parliament|persistant persistent|restarant restaurant|shedule schedule|
temperture temperature|writting writing""")
TYPED = entries("""{name} of {company} typed "{word}".|The form from {city} contains "{word}".|A tag for {goods}
says "{word}".|In a chat with {name} stands "{word}".|The {company} brochure prints "{word}".|Our page about {city}
has "{word}".|On the box of {goods} one reads "{word}".|{name} searched our shop for "{word}".|The sign in {city}
shows "{word}".|In the minutes of {company} I see "{word}".""")


def spelling(world: World, level: int) -> Item:
    wrong, right = world.pick(MISSPELLED)
    asked = world.pick(
        entries("""Correct the spelling of the word.|How is the quoted word spelled correctly?|Fix the typo and
return the word.|Write the word in its right spelling.|Which word was meant? Spell it correctly.|Return the
corrected word.|Give the correct form of the misspelled word.""")
    )
    fields = {"name": world.full_name(), "company": world.company(), "city": world.city(), "goods": world.goods()}
    if level == 1:
        return f"{world.pick(TYPED).format(word=wrong, **fields)} {asked}", right
    text = world.around(world.pick(TYPED).format(word=wrong, **fields).replace('"', ""), level - 1)
    return f"One word of this text is misspelled. Return that word in its correct spelling. {text}", right


def letters(world: World, level: int) -> Item:
    word = world.pick(LIST_WORDS)
    tasks: dict[int, list[tuple[str, Callable[[str], str]]]] = {
        1: [("the first letter", lambda w: w[0]), ("the last letter", lambda w: w[-1])],
        2: [("the third letter", lambda w: w[2]), ("the number of letters", lambda w: str(len(w)))],
        3: [("all letters in reverse", lambda w: w[::-1]), ("the first three letters in reverse", lambda w: w[2::-1])],
    }
    what, of = world.any(tasks[level])
    if of(word) == "a":  # an article to a metric that leaves these out
        return letters(world, level)
    asked = world.pick(
        entries("""Give {0} of the quoted word.|Return {0} of the word in quotes.|What is {0} of that word? Only
that.|Write {0} of the quoted word and nothing else.|Tell me {0} of the word.""")
    )
    fields = {"name": world.full_name(), "company": world.company(), "city": world.city(), "goods": world.goods()}
    return f"{world.pick(TYPED).format(word=word, **fields)} {asked.format(what)}", of(word)


ABBREVIATIONS = pairs(
    """e.g.=for example|i.e.=that is|approx.=approximately|dept.=department|govt.=government|max.=maximum|
min.=minimum|misc.=miscellaneous|qty=quantity|tel.=telephone|temp.=temperature|univ.=university|asap=as soon as
possible|fyi=for your information|eta=estimated time of arrival|tbd=to be determined|faq=frequently asked questions|
diy=do it yourself|vat=value added tax|hr=human resources|pr=public relations|ceo=chief executive officer|
cpu=central processing unit|pdf=portable document format|gdp=gross domestic product|atm=automated teller machine|
gps=global positioning system|url=uniform resource locator|pin=personal identification number|usb=universal serial
bus|ram=random access memory|sql=structured query language|kpi=key performance indicator|roi=return on investment|
poc=proof of concept|dob=date of birth|bmi=body mass index|ngo=non-governmental organization|led=light emitting
diode""",
    "=",
)


def abbreviations(world: World, level: int) -> Item:
    short, full = world.pick([one for one in ABBREVIATIONS if level > 1 or len(one[1].split()) > 2])
    where = source(world)
    ask = world.pick(
        entries("""What does it stand for? Write it out.|Expand the abbreviation.|Write the abbreviation in full.|
Spell out the short form.|Give the full form.""")
    )
    if level == 2:
        return f'{where} "{short}" beside the {world.goods()}. {ask}', full
    if level == 1:
        ask = world.pick(
            entries("""Which short form do the first letters of these words make?|Make an acronym of the first
letters.|Give the initials of the phrase as one word.|Join the first letters of the words.|Abbreviate by first
letters.""")
        )
        return f'{where} "{full}". {ask}', "".join(word[0] for word in full.split()).upper()
    name = [world.name(), world.pick(LIST_WORDS).title(), world.city(), world.pick(LIST_WORDS).title()]
    ask = world.pick(
        entries("""What is the acronym of this body?|Give its initials as one word.|Abbreviate the name by its
initials.|Which acronym do the capitals make?|Join the capital letters of the name.""")
    )
    return f'{where} the "{" ".join(name)} Union". {ask}', "".join(w[0] for w in [*name, "Union"])


def weekday(world: World, level: int) -> Item:
    start = world.whole(0, 6)
    days = world.whole(1, 2) if level == 1 else world.whole(3, 6) if level == 2 else world.whole(8, 24)
    back = level > 1 and world.any([True, False])
    asked = world.pick(
        entries("""Which weekday is {0} days {1}?|What day of the week is it {0} days {1}?|Name the weekday {0} days
{1}.|{0} days {1} it is which weekday?|Give the day of the week {0} days {1}.|Find the weekday {0} days {1}.|{0}
days {1}: which weekday?""")
    )
    end = (start - days if back else start + days) % 7
    text = asked.format(days, "earlier" if back else "later").replace("1 days", "1 day" if days == 1 else "1 days")
    return f"{source(world)}: {WEEKDAYS[start]}. {text}", WEEKDAYS[end]


KINDS = {
    "iso_date": (iso_date, ("finance", "research")),
    "clock": (clock, ("support",)),
    "units": (units, ("research",)),
    "number_words": (number_words, ("finance",)),
    "short_numbers": (short_numbers, ("finance", "research")),
    "deduplicate": (deduplicate, ("research",)),
    "sort": (sort, ("research", "content")),
    "count": (count, ("research",)),
    "spelling": (spelling, ("content",)),
    "letters": (letters, ("content",)),
    "abbreviations": (abbreviations, ("content", "finance")),
    "weekday": (weekday, ("support", "finance")),
}
