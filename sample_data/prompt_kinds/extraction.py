"""Finding something in a short text, as words or as JSON; hiding it; filling it in."""

from __future__ import annotations

import json

from prompt_kinds.world import MONTHS, WEEKDAYS, Item, World, entries

AMOUNTS = entries("""The invoice for the {goods} comes to ${amount}.|We were charged ${amount} for {goods}.|Please
pay ${amount} for the {goods} by Friday.|{company} owes us ${amount} for the {goods}.|A deposit of ${amount} was
taken for the {goods}.|The {goods} from {company} cost ${amount} in all.|Your receipt for the {goods} shows
${amount}.|I transferred ${amount} to {company} for {goods}.|{company} quoted ${amount} for a set of {goods}.|The
repair of the {goods} was ${amount}.""")
ASK_AMOUNT = entries("""What amount is named?|Extract the amount of money.|Which sum does the text mention?|How much
money is it?|Give the amount in dollars.|Pull out the dollar amount.|Find the sum of money in this text.""")
DISTRACTING = entries("""Last year it was ${other}.|The earlier quote of ${other} no longer holds.|We had expected
${other}.|A competitor asks ${other}.|The limit of our card is ${other}.""")


def amount(world: World, level: int) -> Item:
    value = world.price()
    point = world.pick(AMOUNTS).format(amount=value, goods=world.goods(), company=world.company())
    if level < 3:
        return f"{world.pick(ASK_AMOUNT)} {world.around(point, level - 1)}", value
    other = world.pick(DISTRACTING).format(other=world.price())
    asked = world.pick(
        entries("""Which amount is to be booked now, not the one for comparison?|Give the amount of the present
payment or offer, not the other one.|Two amounts are named: extract the one for the goods.|Ignore the comparison and
extract what the goods cost.|What is the actual amount for the goods?""")
    )
    return f"{asked} {point} {other} {world.fillers(1)[0]}", value


DATED = entries("""The meeting with {company} is on {date}.|Our contract with {company} ends on {date}.|The {goods}
will be delivered on {date}.|{name} starts at the {city} office on {date}.|The warranty of the {goods} expires on
{date}.|{name} booked the flight to {city} for {date}.|The fair in {city} opens on {date}.|The payment of {company}
is due on {date}.|The course of {name} begins on {date}.|The inspection of the {goods} took place on {date}.""")
ASK_DATE = entries("""Which date is mentioned?|Extract the date as it is written.|Copy the date from this text.|Find
the date in the message.|What date does the text give?|Return only the date.|When is it? Copy the date.""")


def date(world: World, level: int) -> Item:
    day, month, year = world.whole(1, 28), world.any(MONTHS), world.whole(2019, 2029)
    written = world.any(
        [f"{day} {month} {year}", f"{month} {day}, {year}", f"{year}-{MONTHS.index(month) + 1:02d}-{day:02d}"]
    )
    fields = {"goods": world.goods(), "company": world.company(), "city": world.city(), "name": world.full_name()}
    point = world.pick(DATED).format(date=written, **fields)
    if level == 3:
        earlier = f"{world.any(WEEKDAYS)} the {world.whole(2, 28)}th"
        point += f" It was first planned for {earlier} and then moved to the date above."
    return f"{world.pick(ASK_DATE)} {world.around(point, level - 1 if level < 3 else 1)}", written


CONTACT = entries("""You can write to {email} at any time.|{name} reads mail at {email}.|Send the papers for
{company} to {email}.|Questions about the {goods} go to {email}.|My new address is {email}, please update it.|The
invoice was mailed to {email}.|Reply to {email} and not to this list.|{email} is the address of the {city} office.|
We lost the password of the account {email}.|Please unsubscribe {email} from the newsletter.""")
ASK_EMAIL = entries("""What is the e-mail address?|Extract the e-mail address.|Copy the e-mail address from the
text.|Find the e-mail address and return only that.|Which e-mail address is given?|Return the mail address in this
message.|Which address should mail go to?""")


def email(world: World, level: int) -> Item:
    address = world.email()
    fields = {"goods": world.goods(), "company": world.company(), "city": world.city(), "name": world.full_name()}
    point = world.pick(CONTACT).format(email=address, **fields)
    if level == 3:
        point += " " + world.pick(
            entries("""The old address {0} is no longer read.|Do not use {0}, it bounces.|{0} was closed last year.|
Mail to {0} comes back.|The address {0} belonged to a former colleague.""")
        ).format(world.email())
        return f"{world.pick(ASK_EMAIL)} Give the one in use. {world.around(point, 1)}", address
    return f"{world.pick(ASK_EMAIL)} {world.around(point, level - 1)}", address


ORDERED = entries("""Order {order} has not arrived in {city}.|I want to return the {goods} of order {order}.|{name}
placed order {order} with {company}.|The {goods} in order {order} are broken.|Is order {order} on its way to
{city}?|Please cancel order {order} for {company}.|We paid order {order} twice.|Your order {order} was packed by
{name}.|Order {order} holds the wrong {goods}.|The driver left order {order} with {name}.""")
ASK_ORDER = entries("""What is the order number?|Extract the order number.|Which order is it about? Give the
number.|Copy the order number.|Find the order number in the message.|Return the number of the order.|Name the order
that is meant.""")


def order_number(world: World, level: int) -> Item:
    number = world.order()
    fields = {"goods": world.goods(), "company": world.company(), "city": world.city(), "name": world.full_name()}
    point = world.pick(ORDERED).format(order=number, **fields)
    if level == 3:
        point += " " + world.pick(
            entries("""My customer number is {0}.|The invoice has the number {0}.|The parcel carries the label {0}.|
Our own file number is {0}.|The ticket about it is {0}.""")
        ).format(world.order())
    return f"{world.pick(ASK_ORDER)} {world.around(point, 1 if level > 1 else 0)}", number


ROLES = entries("""signed the contract|ordered the {goods}|will chair the meeting in {city}|found the mistake in the
report|repaired the {goods}|drove the van to {city}|called the office of {company}|won the prize for the best
design|wrote the manual of the {goods}|pays the invoice of {company}""")


def person(world: World, level: int) -> Item:
    roles = world.picks(ROLES, level)
    people = [world.full_name() for _ in roles]
    if len({part for one in people for part in one.split()}) < 2 * len(people):
        return person(world, level)
    goods, city, company = world.goods(), world.city(), world.company()
    told = [role.format(goods=goods, city=city, company=company) for role in roles]
    text = " ".join(world.mixed([f"{one} {what}." for one, what in zip(people, told, strict=True)]))
    asked = world.pick(
        entries("""Who {0}? Give the full name.|Name the person who {0}.|Extract the name of whoever {0}.|Full name
of the person who {0}?|Return first and last name: who {0}?|Tell me who {0}, with surname.|Which person {0}?""")
    ).format(told[0])
    return (f"{text} {asked}" if level == 1 else f"{world.around(text, 1)} {asked}"), people[0]


JSON_ONE = entries("""Answer with JSON only, with the key "{0}".|Return only a JSON object with the key "{0}".|
Output JSON with one key, "{0}", and nothing else.|Give a JSON object that has the single key "{0}".|Reply with JSON
only: one key, "{0}".""")
JSON_TWO = entries("""Answer with JSON only, with the keys "{0}" and "{1}".|Return only a JSON object with the keys
"{0}" and "{1}".|Output JSON with two keys, "{0}" then "{1}", and nothing else.|Give a JSON object that has the keys
"{0}" and "{1}".|Reply with JSON only: the keys are "{0}" and "{1}".""")
EVENTS = entries("""{name} bought {count} {goods} in {city}.|From {city}, {name} ordered {count} {goods}.|A parcel
with {count} {goods} went to {name} in {city}.|{name} of our {city} office returned {count} {goods}.|In {city} there
are {count} {goods} waiting for {name}.|{count} {goods} were delivered to {city} and signed for by {name}.|{name}
rented {count} {goods} at the fair in {city}.|The {city} shop sold {count} {goods} to {name}.|{name} donated {count}
{goods} to a school in {city}.|We owe {name} from {city} the price of {count} {goods}.""")


def _event(world: World, level: int) -> tuple[str, dict[str, str | int]]:
    facts: dict[str, str | int] = {
        "name": world.name(),
        "count": world.whole(3, 98),
        "goods": world.goods(),
        "city": world.city(),
    }
    point = world.pick(EVENTS).format(**facts)
    # A second name or city would leave open which one is meant.
    return world.around(point, level - 1, named=False), facts


def json_one(world: World, level: int) -> Item:
    text, facts = _event(world, level)
    key = world.any(list(facts))
    return f"{text} {world.pick(JSON_ONE).format(key)}", json.dumps({key: facts[key]})


def json_two(world: World, level: int) -> Item:
    text, facts = _event(world, level)
    one, two = world.rng.sample(list(facts), 2)
    return f"{text} {world.pick(JSON_TWO).format(one, two)}", json.dumps({one: facts[one], two: facts[two]})


SHORT = entries("""Call {x} tonight.|Send it to {x} please.|Reach me at {x} today.|Ask {x} about the {goods}.|{x}
knows about the {goods}.|The {goods} belong to {x}.|Forward this to {x} now.|Our contact is {x}.|Write {x} on the
box.|Put {x} on the list.|We got {x} from {city}.|Use {x} for the {goods}.|Keep {x} in the loop.|{x} is in {city}
today.|Tell {x} we like {city}.""")
ASK_MASK = entries("""Replace the {what} with {mask} and keep the rest:|Mask the {what} by writing {mask} in its
place:|Rewrite the sentence with {mask} instead of the {what}:|Hide the {what}: put {mask} there and change nothing
else:|Anonymise: the {what} becomes {mask}:""")


def masking(world: World, level: int) -> Item:
    kinds = {"name": world.full_name, "e-mail address": world.email, "phone number": world.phone}
    what = world.any(list(kinds))
    mask = {"name": "[NAME]", "e-mail address": "[EMAIL]", "phone number": "[PHONE]"}[what]
    frame = world.pick(SHORT).replace("{goods}", world.goods()).replace("{city}", world.city())
    asked = world.pick(ASK_MASK)
    if level == 3:
        asked = asked.replace("keep the rest", "keep the rest, other names too")
        other = world.pick(entries("Thanks, {0}.|Regards, {0}.|Ciao, {0}.|Yours, {0}.|Cheers, {0}.")).format(
            world.name()
        )
        if what == "name":
            what, mask = "phone number", "[PHONE]"
        return (
            f"{asked.format(what=what, mask=mask)} {frame.format(x=kinds[what]())} {other}",
            f"{frame.format(x=mask)} {other}",
        )
    if level == 2:
        frame = f"{frame} {world.pick(entries('It matters.|Before noon.|Or wait here.|Then archive this.|As agreed.'))}"
    return f"{asked.format(what=what, mask=mask)} {frame.format(x=kinds[what]())}", frame.format(x=mask)


FORMS = entries("""Dear {name}, order {order} has shipped.|{name} from {city} ordered {goods}.|Send {goods} to
{name} in {city}.|Order {order}: {goods} for {name}.|Welcome to {city}, {name}!|{goods} for {city}, order {order}.|
{name} paid order {order}.|{city} needs more {goods}.|Label: {name}, {city}.|Order {order} waits in {city}.""")
ASK_FORM = entries("""Fill in the template with these values.|Complete this template from the data.|Replace the
fields in braces.|Write the template out with the values given.|Put the values into the template.""")


def template(world: World, level: int) -> Item:
    values = {"name": world.name(), "city": world.city(), "goods": world.goods(), "order": world.order()}
    form = world.pick(FORMS)
    used = [key for key in values if "{" + key + "}" in form]
    shown = used if level == 1 else list(values)
    data = ", ".join(f"{key}={values[key]}" for key in world.mixed(shown))
    asked = world.pick(ASK_FORM)
    if level == 3:
        form = form.rstrip(".!") + f", {world.pick(entries('says|by|for|with|from'))} {{company}}."
        values["company"] = world.company()
        data += f", company={values['company']}"
        return f"{asked} Template: {form} Values: {data}. Some values are not needed.", form.format(**values)
    return f"{asked} Template: {form} Values: {data}.", form.format(**values)


KINDS = {
    "extract_amount": (amount, ("finance",)),
    "extract_date": (date, ("support", "finance")),
    "extract_email": (email, ("support",)),
    "extract_order": (order_number, ("support",)),
    "extract_person": (person, ("research", "support")),
    "json_one_key": (json_one, ("support", "research")),
    "json_two_keys": (json_two, ("support", "research")),
    "masking": (masking, ("support",)),
    "template": (template, ("content",)),
}
