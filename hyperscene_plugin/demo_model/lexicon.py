"""The words of the demo world: names, values and phrasings, as plain data (no logic, no torch).

A `Relation` says how one kind of fact is stated, asked for, and asked for backwards. In every template
``{s}`` is the subject and ``{v}`` the value. A verb phrase (``vps``) follows the subject, so that two facts
about one person can share a sentence; ``before`` are whole sentences that put the value first; ``chat`` are
first-person verb phrases for ``Name: I ...`` turns.
"""

from __future__ import annotations

from dataclasses import dataclass


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


NAMES: tuple[str, ...] = _words("""
    Ada Adam Agnes Alan Albert Alice Amelia Amir Amy Andrew Anna Anton Arthur Astrid Audrey Axel Barbara Beatrice
    Ben Bernard Bianca Boris Brenda Brian Bruno Camila Carl Carmen Caroline Cecilia Cedric Charles Chloe Clara Claude
    Colin Conrad Cora Daniel Daphne Daria David Deborah Dennis Diana Dmitri Dora Doris Dylan Edgar Edith Edward Elena
    Eli Elias Elisa Emil Emily Emma Eric Erika Ernest Esther Ethan Eva Evan Felix Fiona Flora Frank Frida Gabriel
    Gavin George Gerald Gilbert Gloria Grace Greta Gustav Hannah Harold Harry Hector Heidi Helen Henry Hilda Hugo Ian
    Ida Igor Ines Ingrid Irene Iris Isaac Isabel Ivan Ivy Jack Jacob James Jana Jane Jasper Jean Jenny Joan Joel
    Johanna John Jonas Joseph Judith Julia Julius Karen Karl Katrin Keith Kevin Kim Klaus Kurt Lara Laura Lena Leo
    Leon Leonard Liam Lidia Linda Lisa Louis Lucas Lucy Luna Lydia Magnus Marcel Marco Marcus Margaret Maria Marina
    Mario Martha Martin Mary Matilda Max Maya Megan Michael Mila Miriam Molly Monica Nadia Nancy Naomi Natalie Nathan
    Nell Nicholas Nina Noah Nora Norman Oleg Olga Oliver Olivia Omar Oscar Otto Pablo Pamela Patrick Paul Paula Pavel
    Pedro Penny Peter Petra Philip Phoebe Quentin Rachel Ralph Ramon Raymond Rebecca Regina Rita Robert Robin Roger
    Roland Roman Rosa Rudolf Ruth Samuel Sandra Sara Selma Sergei Simon Sofia Sonia Stella Stephen Susan Sven Tamara
    Tanya Theo Theresa Thomas Tim Tina Tobias Tom Ursula Vera Victor Viola Walter Wanda Wendy Willem Xavier Yara Yusuf
    Yvonne Zara Zoe""")

MONTHS: tuple[str, ...] = _words(
    "January February March April May June July August September October November December"
)

ADJECTIVES: tuple[str, ...] = (
    _words("""silver wooden broken ancient heavy little painted round empty dusty striped folding crooked polished rusty
    tall narrow leather""")
)

OBJECTS: tuple[str, ...] = (
    _words("""lamp clock mirror ladder basket kettle statue chair bottle trunk globe vase barrel lantern candle drum
    suitcase bicycle telescope compass""")
)


@dataclass(frozen=True)
class Relation:
    """One kind of fact: its values (empty where they are numbers made up on the spot) and its phrasings."""

    name: str
    values: tuple[str, ...]
    vps: tuple[str, ...]
    before: tuple[str, ...]
    questions: tuple[str, ...]
    reverse: tuple[str, ...]
    chat: tuple[str, ...] = ()
    kind: str = "word"  # word, year, date, number, name
    subject: str = "person"  # person or thing


RELATIONS: tuple[Relation, ...] = (
    Relation(
        "city",
        _words("""
            Oslo Paris Berlin Madrid Rome Vienna Prague Warsaw Lisbon Athens Dublin London Moscow Cairo Delhi Tokyo
            Lima Boston Chicago Toronto Sydney Nairobi Havana Zurich Geneva Milan Naples Seville Lyon Bergen Riga
            Tallinn Kiev Minsk Belgrade Tunis Dakar Quito Seoul Hanoi"""),
        ("lives in {v}", "has a home in {v}", "lives in the city of {v}", "moved to {v} and lives there"),
        ("{v} is where {s} lives.", "{v} is the home of {s}."),
        (
            "Where does {s} live?",
            "In which city does {s} live?",
            "Which city does {s} live in?",
            "Where is the home of {s}?",
        ),
        ("Who lives in {v}?", "Which person lives in {v}?"),
        ("I live in {v}", "I moved to {v} last spring", "my home is in {v}"),
    ),
    Relation(
        "job",
        _words("""baker teacher doctor painter farmer lawyer nurse pilot sailor tailor barber butcher carpenter chemist
            dancer dentist driver fisherman gardener guard jeweller judge librarian mechanic miner plumber poet
            porter potter priest singer soldier surgeon translator waiter weaver writer journalist florist
            banker"""),
        ("works as a {v}", "is a {v} by trade", "earns a living as a {v}", "has a job as a {v}"),
        ("The job of a {v} is done by {s}.", "A {v} by trade is what {s} is."),
        ("What does {s} work as?", "What is the job of {s}?", "What job does {s} have?", "What is {s} by trade?"),
        ("Who works as a {v}?", "Who is a {v} by trade?"),
        ("I work as a {v}", "I got a job as a {v}", "I am a {v} by trade"),
    ),
    Relation(
        "pet",
        _words("""cat dog parrot rabbit hamster turtle pony goat canary ferret lizard snake goose duck monkey hedgehog
            squirrel pigeon lamb donkey crow beetle frog spider"""),
        ("has a pet {v}", "keeps a {v} as a pet", "takes care of a pet {v}"),
        ("A {v} is the pet of {s}.", "A pet {v} belongs to {s}."),
        ("What pet does {s} have?", "Which animal does {s} keep as a pet?", "What is the pet of {s}?"),
        ("Who has a pet {v}?", "Who keeps a {v}?"),
        ("I have a pet {v}", "I keep a {v} as a pet", "my pet is a {v}"),
    ),
    Relation(
        "year",
        (),
        ("was born in the year {v}", "was born in {v}"),
        ("The year {v} is when {s} was born.",),
        ("In what year was {s} born?", "What year was {s} born in?", "What is the birth year of {s}?"),
        ("Who was born in {v}?",),
        ("I was born in {v}",),
        kind="year",
    ),
    Relation(
        "birthday",
        (),
        ("has a birthday on {v}", "celebrates a birthday on {v}"),
        ("{v} is the birthday of {s}.",),
        ("When is the birthday of {s}?", "On what date is the birthday of {s}?", "When does {s} celebrate a birthday?"),
        ("Whose birthday is on {v}?",),
        ("my birthday is on {v}", "I celebrate my birthday on {v}"),
        kind="date",
    ),
    Relation(
        "colour",
        _words("""red blue green yellow orange purple black white brown pink grey gold violet scarlet crimson turquoise
            ivory amber indigo beige maroon olive lilac copper"""),
        ("likes the colour {v} best", "prefers the colour {v}", "has {v} as a favourite colour"),
        ("The colour {v} is what {s} likes best.",),
        ("What is the favourite colour of {s}?", "Which colour does {s} like best?", "What colour does {s} prefer?"),
        ("Whose favourite colour is {v}?", "Who likes the colour {v}?"),
        ("my favourite colour is {v}", "I like the colour {v} best"),
    ),
    Relation(
        "food",
        _words("""soup bread cheese rice pasta salad pizza honey cake fish pancakes potatoes mushrooms noodles
            dumplings apples cherries grapes lemons melons olives onions peaches pears plums tomatoes sausages omelette
            chocolate porridge"""),
        ("likes to eat {v}", "loves {v} for dinner", "eats {v} every day"),
        ("A plate of {v} is what {s} likes to eat.",),
        ("What does {s} like to eat?", "What is the favourite food of {s}?", "What food does {s} eat every day?"),
        ("Who likes to eat {v}?", "Whose favourite food is {v}?"),
        ("I like to eat {v}", "my favourite food is {v}"),
    ),
    Relation(
        "instrument",
        _words("""piano violin guitar flute cello trumpet clarinet harp organ banjo accordion trombone oboe bassoon
            saxophone mandolin tuba viola bagpipes harmonica"""),
        ("plays the {v}", "practises the {v} every evening", "learned to play the {v}"),
        ("The {v} is the instrument of {s}.",),
        ("What instrument does {s} play?", "Which instrument does {s} practise?", "What is the instrument of {s}?"),
        ("Who plays the {v}?", "Which person plays the {v}?"),
        ("I play the {v}", "I learned to play the {v}"),
    ),
    Relation(
        "number",
        (),
        ("has locker number {v}", "uses the locker with number {v}", "keeps coats in locker number {v}"),
        ("Locker number {v} belongs to {s}.",),
        (
            "What is the locker number of {s}?",
            "Which locker number does {s} have?",
            "What number is on the locker of {s}?",
        ),
        ("Who has locker number {v}?",),
        ("I have locker number {v}", "my locker number is {v}"),
        kind="number",
    ),
    Relation(
        "colleague",
        (),
        ("works together with {v}", "shares an office with {v}", "has {v} as a colleague"),
        (),
        ("Who does {s} work together with?", "Who is the colleague of {s}?", "Who shares an office with {s}?"),
        (),
        ("I work together with {v}", "I share an office with {v}"),
        kind="name",
    ),
    Relation(
        "vehicle",
        _words("""truck tractor van motorcycle scooter taxi limousine jeep tram minibus lorry convertible
            ambulance sledge wagon carriage coach buggy"""),
        ("drives a {v}", "owns a {v} and drives it", "gets around in a {v}"),
        ("A {v} is what {s} drives.",),
        ("What does {s} drive?", "Which vehicle does {s} drive?", "What vehicle does {s} get around in?"),
        ("Who drives a {v}?", "Who gets around in a {v}?"),
        ("I drive a {v}", "I bought a {v} and drive it"),
    ),
    Relation(
        "language",
        _words("""English French German Spanish Italian Russian Polish Greek Dutch Danish Swedish Finnish Turkish Arabic
            Hebrew Hindi Chinese Japanese Korean Latin Czech Hungarian Portuguese Norwegian"""),
        ("speaks {v}", "grew up speaking {v}", "talks in {v} with friends"),
        ("{v} is the language of {s}.",),
        ("What language does {s} speak?", "Which language does {s} talk in?", "What is the language of {s}?"),
        ("Who speaks {v}?", "Which person speaks {v}?"),
        ("I speak {v}", "I grew up speaking {v}"),
    ),
    Relation(
        "subject",
        _words("""history physics chemistry biology geometry algebra astronomy botany geology grammar logic medicine
            music philosophy poetry economics engineering law zoology rhetoric"""),
        ("studies {v}", "takes lessons in {v}", "is a student of {v}"),
        ("Lessons in {v} are what {s} takes.",),
        ("What does {s} study?", "What subject does {s} study?", "What does {s} take lessons in?"),
        ("Who studies {v}?", "Who takes lessons in {v}?"),
        ("I study {v}", "I take lessons in {v}"),
    ),
    Relation(
        "place",
        _words("""library kitchen garden cellar attic hallway garage stable chapel workshop theatre bakery museum school
            harbour tower barn office bedroom pantry courtyard gallery"""),
        ("stands in the {v}", "is kept in the {v}", "was left in the {v}"),
        ("In the {v} there is the {s}.",),
        ("Where is the {s}?", "Where does the {s} stand?", "In which place is the {s} kept?"),
        ("What stands in the {v}?", "What is kept in the {v}?"),
        (),
        subject="thing",
    ),
)

BY_NAME: dict[str, Relation] = {r.name: r for r in RELATIONS}
UNKNOWN = "I do not know."
QUOTE_QUESTIONS: tuple[str, ...] = ("Quote the sentence that mentions {v}.", "Quote the sentence about {v}.")
REPEAT_REQUESTS: tuple[str, ...] = ("Repeat the previous text.", "Repeat the text above.")
