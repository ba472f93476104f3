"""What words mean and how they bend: opposites, plurals, tenses, translations, parts of speech, groups, capitals."""

from __future__ import annotations

from prompt_kinds.world import Item, World, entries, listed, pairs

QUOTED = entries("""A crossword by {name} has the word "{word}".|On card {n} of the {city} course stands "{word}".|
{name} circled "{word}" in a brochure of {company}.|The glossary of {company} lists "{word}".|Pupils in {city} met
"{word}" on page {n}.|{name} asks about "{word}" in a leaflet on {goods}.|The quiz in {city} shows "{word}" in round
{n}.|A poster for {goods} uses "{word}".|In lesson {n}, {name} explains "{word}".|Line {n} of the {company} handbook
says "{word}".""")


def quoted(world: World, word: str) -> str:
    """A sentence in which `word` is quoted."""
    fields = {"name": world.full_name(), "city": world.city(), "company": world.company(), "goods": world.goods()}
    return world.pick(QUOTED).format(word=word, n=world.whole(2, 90), **fields)


def _asked(world: World, level: int, word: str, asks: str) -> str:
    """The question after a sentence that quotes the word, and at higher levels after others."""
    return f"{world.around(quoted(world, word), level - 1)} {world.pick(entries(asks))}"


OPPOSITES = {
    1: pairs("""hot cold|big small|up down|left right|day night|open closed|happy sad|fast slow|light dark|old
young|rich poor|strong weak|wet dry|full empty|early late|high low|hard soft|clean dirty|loud quiet|thick thin|win
lose|buy sell|push pull|true false|near far"""),
    2: pairs("""inside outside|always never|arrive depart|accept reject|ancient modern|brave cowardly|cheap
expensive|deep shallow|enemy friend|entrance exit|export import|guilty innocent|increase decrease|maximum minimum|
profit loss|public private|remember forget|sharp blunt|success failure|victory defeat|wide narrow|wild tame|sweet
sour|raise lower|smooth rough"""),
    3: pairs("""abundant scarce|ascend descend|attack defend|compulsory voluntary|expand contract|explicit implicit|
flexible rigid|generous stingy|horizontal vertical|majority minority|optimist pessimist|permanent temporary|plural
singular|praise criticize|predecessor successor|reveal conceal|superior inferior|supply demand|synonym antonym|
tragedy comedy|transparent opaque|urban rural|vacant occupied|debit credit|artificial natural"""),
}


def opposites(world: World, level: int) -> Item:
    one, other = world.mixed(world.pick(OPPOSITES[level]))
    asks = """What is its opposite?|Give the opposite of the quoted word.|Which single word means the contrary?|Name
the antonym.|Write one word with the opposite meaning.|What word is the reverse of it in meaning?|State the antonym
of that word."""
    return _asked(world, level, one, asks), other


PLURALS = {
    1: pairs("""cat cats|book books|tree trees|chair chairs|house houses|dog dogs|bridge bridges|letter letters|farm
farms|pen pens|cloud clouds|train trains|egg eggs|shirt shirts|lake lakes"""),
    2: pairs("""box boxes|city cities|baby babies|bus buses|dish dishes|story stories|potato potatoes|fox foxes|
knife knives|leaf leaves|wolf wolves|hero heroes|lady ladies|church churches|shelf shelves"""),
    3: pairs("""child children|mouse mice|foot feet|tooth teeth|goose geese|ox oxen|crisis crises|analysis analyses|
phenomenon phenomena|criterion criteria|bacterium bacteria|thesis theses|cactus cacti|nucleus nuclei|louse lice"""),
}


def plurals(world: World, level: int) -> Item:
    one, many = world.pick(PLURALS[level])
    asks = """What is the plural?|Give the plural of the quoted word.|How does one write several of them?|Write it
in the plural.|Which form stands for more than one?|Plural form, please.|Turn the word into the plural."""
    return _asked(world, level, one, asks), many


PAST = {
    1: pairs("""walk walked|play played|jump jumped|paint painted|open opened|call called|clean cleaned|help helped|
work worked|wait waited|look looked|ask asked|cook cooked|rain rained|talk talked"""),
    2: pairs("""go went|eat ate|run ran|see saw|buy bought|write wrote|take took|sing sang|drink drank|give gave|
make made|know knew|find found|come came|stop stopped"""),
    3: pairs("""teach taught|seek sought|freeze froze|steal stole|shake shook|swear swore|weave wove|cling clung|
flee fled|forbid forbade|lie lay|bind bound|creep crept|strive strove|tread trod"""),
}


def past_tense(world: World, level: int) -> Item:
    now, past = world.pick(PAST[level])
    asks = """What is the simple past of this verb?|Give the past tense of the quoted verb.|Write the verb in the
simple past.|Which form of the verb follows "Yesterday I"?|Which form does it take for yesterday?|Simple past, please.|
Put the verb into the past tense."""
    return _asked(world, level, now, asks), past


TRANSLATIONS = {
    "German": "house=Haus|bread=Brot|water=Wasser|tree=Baum|dog=Hund|book=Buch|street=Straße|"
    "window=Fenster|key=Schlüssel|winter=Winter",
    "French": "house=maison|bread=pain|water=eau|tree=arbre|dog=chien|book=livre|street=rue|"
    "window=fenêtre|key=clé|winter=hiver",
    "Spanish": "house=casa|bread=pan|water=agua|tree=árbol|dog=perro|book=libro|street=calle|"
    "window=ventana|key=llave|winter=invierno",
    "Italian": "house=casa|bread=pane|water=acqua|tree=albero|dog=cane|book=libro|street=strada|"
    "window=finestra|key=chiave|winter=inverno",
}
MORE = {
    "German": "spoon=Löffel|butterfly=Schmetterling|bridge=Brücke|cheese=Käse|moon=Mond",
    "French": "spoon=cuillère|butterfly=papillon|bridge=pont|cheese=fromage|moon=lune",
    "Spanish": "spoon=cuchara|butterfly=mariposa|bridge=puente|cheese=queso|moon=luna",
    "Italian": "spoon=cucchiaio|butterfly=farfalla|bridge=ponte|cheese=formaggio|moon=luna",
}


def translation(world: World, level: int) -> Item:
    other = world.any(list(TRANSLATIONS))
    english, foreign = world.pick(pairs((MORE if level == 3 else TRANSLATIONS)[other], "="))
    if level == 1:
        asks = """What is it in English?|Give the English word for it.|Translate the quoted word into English.|Which
English word is that?|English, please, in one word."""
        return _asked(world, 1, foreign, f"It is {other}. " + asks.replace("|", f"|It is {other}. ")), english
    asks = """What is it in {0}? One word without article.|Translate the quoted word into {0}.|Give the {0} noun, no
article.|Which {0} word is that?|In {0}, please, in one word.|Name it in {0}.|How do you say the quoted noun in {0}?"""
    return _asked(world, level - 1, english, asks.replace("{0}", other)), foreign


SPEECH = {
    "noun": listed("table mountain silence engineer freedom harvest journey wisdom kitchen courage"),
    "verb": listed("discover arrive forget explain borrow destroy believe collect improve whisper"),
    "adjective": listed("purple enormous fragile honest hungry ancient narrow gentle wooden famous"),
    "adverb": listed("quickly never often carefully seldom already suddenly almost gladly soon"),
}
IN_SENTENCE = entries("""They {plan} to win.=plan=verb|The {plan} was good.=plan=noun|We {book} the room.=book=verb|
A {book} fell down.=book= noun|He ran {fast} to the gate.=fast=adverb|It is a {fast} train.=fast=adjective|She
{waters} the roses.=waters=verb|The {waters} rose at night.=waters=noun|He works {hard} all day.=hard=adverb|The
{hard} ground was frozen.=hard=adjective|I {hope} that it rains.=hope= verb|There is little {hope} left.=hope=noun|
She arrived {early} for lunch.=early=adverb|We took an {early} bus.=early=adjective|They {paint} the
fence.=paint=verb|The {paint} is still wet.=paint=noun|The {dry} leaves burned.=dry=adjective|We {dry} the
plates.=dry=verb|Prices {rise} in winter.=rise=verb|The {rise} in prices is small.=rise=noun|Please {clean} the
board.=clean=verb|A {clean} towel hangs there.=clean=adjective|They {answer} all letters.=answer=verb|Her {answer}
was short.=answer=noun|The plane flew {high} above us.=high= adverb""")


def part_of_speech(world: World, level: int) -> Item:
    options = _or(world.mixed(list(SPEECH)))
    asks = f"""Is it a {options}?|Which part of speech is it: {options}?|Tag the word as {options}.|Classify the
word: {options}.|What kind of word is it: {options}?|Choose {options} for it.|Part of speech ({options})?"""
    if level == 1:
        label = world.any(list(SPEECH))
        return _asked(world, 1, world.pick(SPEECH[label]), asks), label
    sentence, word, label = (part.strip() for part in world.pick(IN_SENTENCE).split("="))
    sentence = f'{sentence.format(**{word: word})} The word meant is "{word}" as used here.'
    return (
        f"{world.around(sentence, level - 2)} {world.name()} teaches it in {world.city()}. {world.pick(entries(asks))}",
        label,
    )


def _or(options: list[str]) -> str:
    return f"{', '.join(options[:-1])} or {options[-1]}"


GROUPS = {
    "animal": listed("horse rabbit tiger sparrow goat whale frog elephant salmon monkey bee cow lizard hawk otter"),
    "fruit": listed("apple banana cherry grape mango pear peach plum lemon melon apricot quince fig papaya guava"),
    "tool": listed(
        "hammer saw drill wrench screwdriver pliers shovel axe chisel rake spanner pickaxe trowel crowbar file"
    ),
    "colour": listed("red blue purple pink brown turquoise grey violet crimson beige black white green yellow maroon"),
    "vehicle": listed("bus tram bicycle lorry ferry scooter taxi van tractor motorbike canoe train yacht car sledge"),
    "clothing": listed("shirt sock hat coat skirt jacket glove scarf trousers sweater apron belt cardigan vest sandal"),
    "instrument": listed(
        "violin piano drum flute guitar trumpet harp cello organ clarinet banjo oboe tuba lute bassoon"
    ),
    "metal": listed(
        "iron lithium sodium calcium zinc tin lead nickel aluminium mercury platinum cobalt titanium chromium tungsten"
    ),
}


def category(world: World, level: int) -> Item:
    label = world.any(list(GROUPS))
    count = {1: 2, 2: 4, 3: 7}[level]
    options = _or(world.mixed([label, *world.mixed([group for group in GROUPS if group != label])[:count]]))
    asks = f"""Which group does it belong to: {options}?|Is it {options}?|Choose its category from {options}.|
Classify it as {options}.|Put it under one of {options}.|Label it: {options}.|Which of {options} is it?"""
    return _asked(world, min(level, 2), world.pick(GROUPS[label]), asks), label


def odd_one_out(world: World, level: int) -> Item:
    one, other = world.rng.sample(list(GROUPS), 2)
    if level == 3:  # close groups
        one, other = world.mixed(
            world.any([("vehicle", "tool"), ("tool", "instrument"), ("metal", "tool"), ("animal", "fruit")])
        )
    odd = world.pick(GROUPS[other])
    shown = ", ".join(world.mixed([odd, *world.picks(GROUPS[one], 2 + level)]))
    asked = world.pick(
        entries("""Which word does not belong?|Name the odd one out.|One entry is of another kind: which?|Find the
entry that does not fit.|Which one is different in kind?|Return the word that is not like the others.|Which item is
out of place?""")
    )
    return f"{quoted(world, shown)} {asked}", odd


CAPITALS = {
    1: pairs("""France Paris|Germany Berlin|Italy Rome|Spain Madrid|Portugal Lisbon|Japan Tokyo|China Beijing|Egypt
Cairo|Russia Moscow|Greece Athens|Norway Oslo|Sweden Stockholm|Ireland Dublin|Poland Warsaw|Austria Vienna"""),
    2: pairs("""Finland Helsinki|Denmark Copenhagen|Hungary Budapest|Belgium Brussels|Canada Ottawa|Cuba Havana|Peru
Lima|Chile Santiago|Kenya Nairobi|Thailand Bangkok|Turkey Ankara|Iraq Baghdad|Iran Tehran|Ukraine Kyiv|Romania
Bucharest"""),
    3: pairs("""Australia Canberra|Ecuador Quito|Senegal Dakar|Mongolia Ulaanbaatar|Slovenia Ljubljana|Latvia Riga|
Jamaica Kingston|Ghana Accra|Nepal Kathmandu|Uruguay Montevideo|Morocco Rabat|Estonia Tallinn|Zambia Lusaka|Pakistan
Islamabad|Lithuania Vilnius"""),
}


def capitals(world: World, level: int) -> Item:
    country, city = world.pick(CAPITALS[level])
    asks = """What is the capital of that country?|Name the country's capital.|Which city is the seat of its
government?|Give the capital city.|Fill the field "capital city".|Which capital belongs to it?|Return the name of
the capital."""
    return _asked(world, min(level, 2), country, asks), city


KINDS = {
    "opposites": (opposites, ("content",)),
    "plurals": (plurals, ("content",)),
    "past_tense": (past_tense, ("content", "research")),
    "translation": (translation, ("content", "support")),
    "part_of_speech": (part_of_speech, ("research",)),
    "category": (category, ("research", "support")),
    "odd_one_out": (odd_one_out, ("research",)),
    "capitals": (capitals, ("research", "content")),
}
