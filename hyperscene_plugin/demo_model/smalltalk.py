"""Sentences that state no fact: small talk for chat turns, scenery for plain texts. Data and one chooser."""

from __future__ import annotations

import random
from collections.abc import Sequence

SAID: tuple[str, ...] = tuple(
    line.strip()
    for line in """
    Hello there!
    Good evening everyone.
    Good morning.
    Hi all.
    Hi!
    Hello again.
    Nice to hear from you.
    Nice to meet you all.
    Thanks, that is good to know.
    Thank you so much.
    Thank you, see you soon.
    That sounds lovely.
    That sounds hard.
    That is great news!
    That is funny.
    Really?
    Oh no!
    Oh, how nice.
    Ha, good one.
    Well, well.
    Yes, of course.
    Yes please.
    No, not at all.
    No, thank you.
    Sorry for the late answer.
    Sorry, I was asleep.
    Sorry about the noise.
    It was a long day.
    It was a long week, and I am tired.
    It is raining again.
    It is cold today.
    It is late here.
    It rained all night.
    The weather is fine at last.
    The weather could be better.
    The train was late again.
    The bus was full.
    The shop was closed.
    The lift is broken again.
    The window does not close.
    The heating is off, bring a coat.
    The neighbours were loud last night.
    The keys are under the mat.
    The door was open when I came home.
    I will be back on Monday.
    I will bring something to drink.
    I will call you later.
    I will think about it.
    I am on my way.
    I am very happy about it.
    I am not sure about that.
    I was there last year.
    I was out of town for a few days.
    I have no time today.
    I have to go now.
    I hope you are well.
    I hope to see you on Friday.
    I can help with the boxes.
    I can not find my glasses.
    I did not know that.
    I do not mind.
    I forgot to tell you.
    I like this house.
    I love it here.
    I need more sleep.
    I never said that.
    I should have asked before.
    I think so too.
    I told you so.
    I would like that.
    We could meet on Sunday.
    We had a good laugh.
    We should do that again.
    We were in the mountains.
    We will see.
    You are welcome.
    You are right, it is too late now.
    You should come and see it.
    You will like it.
    Can somebody open the gate?
    Can you hear me?
    Could you wait a moment?
    Did you sleep well?
    Do you need help?
    Does that work for you?
    Has anyone seen my umbrella?
    How are you?
    How was your trip?
    How long does it take?
    Is anybody at home?
    Is it far from here?
    Shall we begin?
    What a day!
    What a pity.
    What do you think?
    What time is it?
    When do we meet?
    Where did you put the ladder?
    Where were you yesterday?
    Who wants some tea?
    Who left the light on?
    Why not?
    Everybody asks me that.
    Everything is ready.
    Nobody believes me.
    Not yet, but soon.
    Only a little, to be honest.
    See you tomorrow.
    Sleep well.
    So far so good.
    Still not finished, I am afraid.
    Take your time.
    There is enough for everyone.
    There are two seats left.
    They came back at eight.
    This is my first message here.
    Too bad.
    Two of them are still here.
    My back hurts.
    My sister says hello.
    My phone was off.
    My train leaves in ten minutes.
    He is very quiet.
    He ran away once, but he came back.
    She is asleep now.
    She sings in the morning.
    It keeps me busy.
    It makes me smile.
    It took me years.
    It was my idea.
    Believe me or not.
    Better late than never.
    Come in, the door is open.
    Do not tell anyone.
    Do not worry.
    Just a moment.
    Just like every year.
    Let me know.
    Never mind.
    Please be quiet after ten.
    Please write it down somewhere.
    Same here.
    Since last winter, in fact.
    And that is all.
    But do not ask me why.
    As always.
    At least for now.
    In any case, thank you.
    It was a gift from my aunt.
    """.strip().splitlines()
)

TO_SOMEONE: tuple[str, ...] = (
    "Hello {n}.", "Hi {n}!", "Thank you, {n}.", "Thanks {n}, I will.", "Good night {n}.", "Welcome {n}!",
    "{n}, are you there?", "{n} was here this morning.", "Did you see {n} today?", "I met {n} on the stairs.",
    "I agree with {n}.", "{n} is right.", "Please ask {n} about it.", "How are you, {n}?", "Nice to see you, {n}.",
    "Happy to hear that, {n}.", "{n} will bring the rest.", "Sorry {n}, I did not see your message.",
)  # fmt: skip

SCENERY: tuple[str, ...] = (
    "It was a quiet evening.", "The rain had stopped by then.", "Nobody spoke for a while.", "The street was empty.",
    "Snow lay on the roofs.", "A bell rang somewhere.", "The lights went out one by one.", "It was early in the year.",
    "The river was high after the storm.", "Most of the shops were closed.", "The old house had many rooms.",
    "There was a long silence.", "The table was laid for ten.", "Everyone was waiting for the news.",
    "The wind came from the sea.", "That summer was very hot.", "The letters arrived late.", "The gate stood open.",
    "All of them knew each other well.", "Not much was said about it.", "They met on the first day of the week.",
    "The evening was long and the fire was warm.", "In the morning the fog was thick.", "The clock struck nine.",
)  # fmt: skip


def small_talk(rng: random.Random, names: Sequence[str], chat: bool) -> str:
    """One sentence without a fact: spoken when `chat`, else scenery; some address or mention one of `names`."""
    if names and rng.random() < 0.25:
        return rng.choice(TO_SOMEONE[:-1] if chat else TO_SOMEONE[7:8]).format(n=rng.choice(names))
    return rng.choice(SAID if chat else SCENERY)


def day_line(rng: random.Random) -> str:
    """A line with a day in brackets, as a rendered chat has between its days."""
    return f"[{rng.randrange(2015, 2030)}-{rng.randrange(1, 13):02}-{rng.randrange(1, 29):02}]"
