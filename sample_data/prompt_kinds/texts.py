"""What a short text is about, how it sounds, what it wants, what it says."""

from __future__ import annotations

from prompt_kinds.world import Item, World, entries, pairs

TOPICS = {
    "sports": entries("""The striker scored twice in the final minutes.|A young runner broke the marathon record.|
The coach changed the whole defence at half time.|Fans waited all night for tickets to the cup.|The tennis champion
lost in straight sets.|Rain stopped the cricket match before lunch.|The rowers trained on the lake every morning.|
The goalkeeper saved two penalties.|The cyclist won the last mountain stage.|The swimmer took gold over four hundred
metres."""),
    "politics": entries("""The minister resigned after the vote.|Parliament passed the new law by a small majority.|
Both parties began talks about a coalition.|The mayor announced that she will run again.|The senator called for an
early election.|The opposition wants to change the constitution.|Ambassadors signed the border treaty.|The president
vetoed the bill.|Voters will decide in a referendum next year.|The council rejected the candidate for governor."""),
    "health": entries("""Doctors advise a second dose of the vaccine.|The clinic opened a ward for heart patients.|
Sleeping too little raises blood pressure.|Nurses treated forty people for flu.|The surgeon repaired the knee in an
hour.|A new drug lowers the risk of stroke.|The hospital tests all visitors for the virus.|Walking daily helps
against back pain.|Patients wait weeks for a dentist.|The study links sugar to diabetes."""),
    "technology": entries("""The update makes the phone's battery last longer.|Engineers built a chip with fewer
transistors.|The app crashed after the new release.|A robot sorts the parcels by camera.|The laptop has a sharper
screen.|Hackers found a hole in the browser.|The start-up trains large language models.|The server moved to another
cloud.|Programmers ported the game to Linux.|The satellite sends data by laser."""),
    "finance": entries("""The bank raised interest rates again.|Shares fell after the quarterly report.|Investors
sold their bonds in panic.|The fund pays a dividend in spring.|Inflation slowed for the third month.|The firm
borrowed two million euros.|Gold prices reached a new high.|The auditor found an error in the balance sheet.|The
insurer doubled its profit.|The exchange stopped trading of the stock."""),
    "food": entries("""The chef adds lemon to the risotto.|Bake the bread until the crust is brown.|The bakery sells
out of croissants by nine.|This soup needs more salt and garlic.|The menu lists six kinds of pasta.|Whisk the eggs
with sugar and cream.|Her curry simmered for three hours.|The grapes gave a dry white wine.|The café serves pancakes
all day.|Roast the carrots with honey and thyme."""),
}
ASK_TOPIC = entries("""Which topic fits this text: {0}?|Choose the topic ({0}).|Label the text with one of: {0}.|Is
this text about {0}?|Classify by topic. Options: {0}.|What section of a newspaper is this from: {0}?|Pick one
category from {0}.""")
MISLEADING = pairs(
    """A software company paid for the team's shirts, but=sports|A famous footballer gave a speech, and
then=politics|The hospital's chef was interviewed, yet the report is on this:=food|A banker fell ill at work, and
so=health|The minister's phone was stolen, which shows:=technology|The football club is on the stock market,
and=finance|In the stadium's kitchen=food|The mayor watched from the stands as=sports|Over dinner the two leaders
agreed, and now=politics|The gym's app is down, but readers learn that=health|A cookery site was
attacked:=technology|The sugar maker's accounts are out:=finance""",
    "=",
)


def _or(options: list[str]) -> str:
    return f"{', '.join(options[:-1])} or {options[-1]}"


def topic(world: World, level: int) -> Item:
    lead, label = world.pick(MISLEADING) if level == 3 else ("", world.any(list(TOPICS)))
    text = world.pick(TOPICS[label])
    if level == 2:
        text = " ".join(world.picks(TOPICS[label], 2))
    if lead:
        text = f"{lead} {text[0].lower()}{text[1:]} {world.fillers(1)[0]}"
    others = world.mixed([other for other in TOPICS if other != label])[: level + 1]
    return f"{world.pick(ASK_TOPIC).format(_or(world.mixed([label, *others])))} {text}", label


THINGS = entries("""The hotel room|This vacuum cleaner|The evening concert|Her second novel|The lunch menu|My new
headset|The guided tour|Their delivery service|The language course|This running shoe|The online bank|The camping
site|Our rented car|The museum shop|The phone contract""")
GOOD = entries("""was a pleasure from start to end|works better than I had dared to hope|is worth every cent|made
the whole family smile|was clean, quick and friendly|deserves the highest praise|is simply excellent|has made my
days easier|was great value|left us delighted""")
BAD = entries("""was a complete waste of money|broke on the second day|is the worst that I have tried|left us angry
and tired|was dirty, slow and loud|never did what was promised|is a bitter disappointment|ruined our holiday|should
not be on sale|gave me nothing but trouble""")
SO_SO = entries("""is neither good nor bad|does the job and no more|is about average|was all right, I suppose|is
what one expects at this price|is nothing special but fine|was acceptable|is as usual|was okay overall|is so-so""")
TURNS = entries("""Everybody had warned me that it would be awful, but|Despite all the bad reviews,|The start was
slow, and still|I nearly sent it back. In the end,|The box was dented, and yet|I did not like the colour. All the
same,|It arrived late, but|Once the first fright was over,|Few believed in it. Even so,|My sister hated it; for me,""")
FALLS = entries("""Everybody had praised it, but|In spite of the glowing reviews,|It looked lovely in the shop.
Sadly,|The staff smiled a lot, and yet|I so wanted to like it. In the end,|The first hour was nice. After that,|My
brother loves it; for me,|The pictures were beautiful, but|What a kind welcome. Still,|It came on time.
Unfortunately,""")
ASK_SENTIMENT = entries("""Is this review {0}?|What is the sentiment: {0}?|Label the opinion as {0}.|Does the
customer sound {0}?|Classify the tone as {0}.|Choose {0} for this comment.|Rate the mood of the text: {0}.""")


def sentiment(world: World, level: int) -> Item:
    labels = (
        {"positive": GOOD, "negative": BAD} if level == 1 else {"positive": GOOD, "negative": BAD, "neutral": SO_SO}
    )
    label = world.any(list(labels)) if level < 3 else world.any(["positive", "negative"])
    thing, verdict = world.pick(THINGS), world.pick(labels[label])
    text = f"{thing} {verdict}."
    if level == 2:
        text = world.around(text, 1)
    if level == 3:
        turn = world.pick(TURNS if label == "positive" else FALLS)
        text = f"{world.fillers(1)[0]} {turn} {thing[0].lower()}{thing[1:]} {verdict}."
    return f"{world.pick(ASK_SENTIMENT).format(_or(world.mixed(list(labels))))} {text}", label


INTENTS = {
    "refund": entries("""I want my money back for the {goods}.|Please return what I paid for the {goods}.|The
{goods} are faulty, so give the payment back to me.|You charged me although I sent the {goods} back; pay it back.|
Kindly reimburse me for the {goods}."""),
    "cancel": entries("""Please stop my order of {goods}, I need it no longer.|I would like to end my subscription
for {goods}.|Do not send the {goods}, I have changed my mind.|Call off the delivery of {goods}, we do not want it.|
Take my order of {goods} out of your books."""),
    "tracking": entries("""Where is my parcel with the {goods}?|Has the van with the {goods} left {city} yet?|When
will the {goods} get here?|Can you see how far the shipment of {goods} has come?|The {goods} were sent a week ago;
where are they now?"""),
    "login": entries("""I have forgotten my password.|The site does not accept my user name.|My account is locked
after three tries.|The code for signing in never reaches me.|I cannot get into my account to see the {goods}."""),
    "praise": entries("""I just wanted to say how lovely the {goods} are.|Your people in {city} did a superb job.|
Thank you, the {goods} made our day.|Best shop that I know, well done with the {goods}.|My compliments to whoever
packed the {goods}."""),
    "address": entries("""I have moved to {city}; please use the new street.|Send the {goods} to my office and not
to my home.|The house number on the parcel label is wrong.|From May on we live in {city}, update your records.|
Please correct my postcode before the {goods} ship."""),
}
ASK_INTENT = entries("""What does the customer want: {0}?|Classify the intent as {0}.|Choose the right queue: {0}.|
Which label fits the message, {0}?|Route this mail to {0}.|Intent of the message ({0})?|Tag the request with one of
{0}.""")


def intent(world: World, level: int) -> Item:
    label = world.any(list(INTENTS))
    text = world.pick(INTENTS[label]).format(goods=world.goods(), city=world.city())
    options = world.mixed([label, *world.mixed([other for other in INTENTS if other != label])[: level + 1]])
    return f"{world.pick(ASK_INTENT).format(_or(options))} {world.around(text, level - 1 if level < 3 else 2)}", label


URGENT = entries("""the whole shop is down and nobody can pay|water is running into the server room|the demo for
{company} starts in ten minutes and nothing works|all customers see each other's data|the only key for {city} is
lost and the truck waits outside|the backup failed and the disk is dying|a patient waits and the record does not
open|payroll must run today and is stuck|the alarm in {city} does not stop|we cannot send any mail at all""")
CALM = entries("""the logo on page four is a little too small|could you add a dark theme some day|the {goods} list
might be sorted by name|I wonder whether {company} has a newsletter|the font in the footer looks old|when
convenient, explain the second column|a typo in the help text about {goods}|please think about a picture of {city}|
next year we may want more {goods}|an idea for the wiki, no hurry""")
ASK_URGENCY = entries("""How urgent is this ticket, high or low?|Is the priority high or low?|Set the urgency to
high or low.|Should this be marked high or low?|Triage this: high or low?|Priority of the request, low or high?|
Answer high or low: how much does it press?""")


def urgency(world: World, level: int) -> Item:
    label = world.any(["high", "low"])
    text = world.pick(URGENT if label == "high" else CALM).format(
        company=world.company(), city=world.city(), goods=world.goods()
    )
    if level == 3:
        loud = entries("""URGENT!!!|Please read at once!|Hello again!!|Very important!!!|ASAP!""")
        quiet = entries(
            """No stress, but|Just a small note:|Sorry to bother you,|Hi there, by the way,|When you have a second:"""
        )
        text = f"{world.pick(quiet if label == 'high' else loud)} {text}."
        return f"{world.pick(ASK_URGENCY)} Judge by the facts, not by the tone. {world.around(text, 1)}", label
    return f"{world.pick(ASK_URGENCY)} {world.around(text[0].upper() + text[1:] + '.', level - 1)}", label


LANGUAGES = {
    "German": entries("""Der Zug nach Hamburg fährt heute nicht.|Wir haben drei neue Stühle gekauft.|Kannst du mir
bitte helfen?|Das Wetter bleibt bis morgen schön.|Meine Schwester arbeitet im Krankenhaus."""),
    "French": entries("""Le magasin ouvre à neuf heures.|Nous cherchons un appartement près du lac.|Elle a perdu ses
clés hier soir.|Je voudrais une table pour deux.|Les enfants jouent dans le jardin."""),
    "Spanish": entries("""La tienda cierra a las ocho.|Mañana viajamos a la playa.|¿Dónde está la estación?|Mi
hermano compró un coche nuevo.|Los niños leen en la biblioteca."""),
    "Italian": entries("""Il negozio chiude alle sette.|Domani andiamo al mare con gli amici.|Vorrei un bicchiere
d'acqua.|La mia bicicletta è rotta.|I ragazzi studiano in biblioteca."""),
    "Dutch": entries("""De winkel is vandaag gesloten.|Wij gaan morgen naar het strand.|Kun je me even helpen?|Mijn
fiets staat voor het huis.|Het regent al de hele dag."""),
    "Portuguese": entries("""A loja abre às nove horas.|Amanhã vamos à praia com eles.|Não encontro a minha chave.|O
meu irmão mora em Coimbra.|As crianças estão no jardim."""),
    "Polish": entries("""Sklep jest dzisiaj zamknięty.|Jutro jedziemy nad morze.|Gdzie jest moja książka?|Mój brat
kupił nowy samochód.|Dzieci bawią się w ogrodzie."""),
    "Swedish": entries("""Affären är stängd i dag.|Vi åker till havet i morgon.|Var är min bok?|Min bror har köpt en
ny bil.|Barnen leker i trädgården."""),
}
ASK_LANGUAGE = entries("""Which language is this?|Name the language of the text.|In what language is it written?|
Detect the language.|What language do you see here?|Give the language of this sentence in English.|The text below is
in which language?""")
NEAR = {
    "Spanish": "Portuguese",
    "Portuguese": "Spanish",
    "German": "Dutch",
    "Dutch": "German",
    "French": "Italian",
    "Italian": "French",
    "Polish": "Swedish",
    "Swedish": "Polish",
}


def language(world: World, level: int) -> Item:
    label = world.any(list(LANGUAGES)[: 4 if level == 1 else 8])
    text = world.pick(LANGUAGES[label])
    where = f"{world.name()} at {world.company()} in {world.city()} received"
    if level == 3:
        other = world.pick(LANGUAGES[NEAR[label]])
        one, two = world.mixed([text, other])
        which = "first" if one == text else "second"
        return (
            f"{where} two notes. First: {one} Second: {two} {world.pick(ASK_LANGUAGE)} Answer for the {which} note.",
            label,
        )
    if level == 2:
        return f"{where} this note, filed under {world.order()}: {text} {world.pick(ASK_LANGUAGE)}", label
    return f"{where} this: {text} {world.pick(ASK_LANGUAGE)}", label


CLAIMS = entries("""{name} sold {a} {goods} and kept {b}.|{a} of the {goods} are in {city}, {b} are elsewhere.|The
{city} shop has {a} {goods} and orders {b} more.|{name} packed {a} {goods} in the morning and {b} in the afternoon.|
In {city}, {a} {goods} passed the test and {b} failed.|{name} counted {a} {goods} on the left shelf and {b} on the
right.|{a} {goods} go to {city}, {b} go back.|{name} from {city} lent out {a} {goods}; {b} came back.|Of the
{goods}, {a} are new and {b} are used.|{name} painted {a} {goods} in {city} and sold {b}.""")


def yes_no(world: World, level: int) -> Item:
    a, b = world.whole(2, 60), world.whole(2, 60)
    if abs(a - b) < 2:
        return yes_no(world, level)
    goods, name, city = world.goods(), world.name(), world.city()
    text = world.around(world.pick(CLAIMS).format(name=name, a=a, b=b, goods=goods, city=city), level - 1)
    truth = world.any([True, False])
    ask = world.pick(
        entries("""Answer yes or no:|Yes or no?|True to the text, yes or no:|Decide with yes or no:|Does the text
say so, yes or no?""")
    )
    if level == 1:
        number = a if truth else a + world.whole(1, 9)
        return f"{text} {ask} Is the number {number} named first?", "yes" if truth else "no"
    if level == 2:
        return f"{text} {ask} Is the first number of {goods} larger than the second?", "yes" if a > b else "no"
    limit = a + b - world.whole(1, 9) if truth else a + b + world.whole(1, 9)
    return f"{text} {ask} Are both numbers of {goods} together more than {limit}?", "yes" if truth else "no"


KINDS = {
    "topic": (topic, ("content", "research")),
    "sentiment": (sentiment, ("support", "research")),
    "intent": (intent, ("support",)),
    "urgency": (urgency, ("support",)),
    "language": (language, ("content", "support")),
    "yes_no": (yes_no, ("research", "finance")),
}
