"""A text → the spans of its dates and of its numbers with their units, in English and Russian."""

from __future__ import annotations

from collections.abc import Iterable

import regex

__all__ = ["date_spans", "quantity_spans"]

_NUMBER = r"\d+(?:[.,   ]\d{3})*(?:[.,]\d+)?"
_EN_ONES = (
    r"(?:one|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|thirteen|fourteen|fifteen|sixteen|seventeen|"
    r"eighteen|nineteen|twenty|thirty|forty|fifty|sixty|seventy|eighty|ninety|hundred|thousand|million|billion|dozen)"
)
_EN_NUMBER = (
    r"(?:(?:a|half\s+a|several|some|few|many)\s+(?=hundred|thousand|million|billion|dozen))?"
    rf"{_EN_ONES}(?:[-\s]+(?:and\s+)?{_EN_ONES}){{0,3}}"
)
_RU_NUMBER = (
    r"(?:(?:один|одн[аоуой]+|одного|дв[аеух]+|дв[ум]мя|тр[иёеймя]+х?|четыр\w+|пят\w{1,3}|шест\w{1,3}|сем[ьи]ю?|"
    r"восем[ьи]ю?|восьми|девят[ьи]ю?|десят[ьи]ю?|\w+надцат[ьи]ю?|двадцат[ьи]|тридцат[ьи]|сорока?|\w+десят|девяност[оа]|"
    r"сто|ста|двести|триста|четыреста|\w+сот|полтор[аы]|несколько|тысяч[аиуе]?|миллион\w{0,2})\s+){1,3}"
)
_EN_UNIT = (
    r"(?:per\s*cent|percent|years?|months?|weeks?|days?|hours?|minutes?|seconds?|moments?|miles?|yards?|feet|foot|"
    r"inch(?:es)?|acres?|pounds?|ounces?|tons?|tonnes?|grams?|kilograms?|dollars?|cents?|pence|shillings?|guineas?|"
    r"euros?|degrees?|met(?:er|re)s?|kilomet(?:er|re)s?|lit(?:er|re)s?|gallons?|times|o['’]clock|percentage\s+points?|"
    r"people|men|women|children|kg|km|cm|mm|mg|ml|lbs?|oz|ft|mi|mph|km/h|hz|khz|mhz|ghz|[kmgt]i?b|bytes?|bits?|tokens?|"
    r"watts?|kw|kwh|volts?|am|pm|a\.m|p\.m)"
)
_RU_UNIT = (
    r"(?:процент\w{0,3}|год\w{0,3}|лет|месяц\w{0,3}|недел\w{1,3}|д(?:ень|ня|ней|нями|ню)|час\w{0,3}|минут\w{0,3}|"
    r"секунд\w{0,3}|верст\w{0,3}|вёрст\w{0,3}|аршин\w{0,3}|саж\w{2,4}|пуд\w{0,3}|фунт\w{0,3}|рубл\w{1,3}|копе\w{1,3}|"
    r"душ\w{0,2}|человек\w{0,2}|раза?|километр\w{0,3}|метр\w{0,3}|сантиметр\w{0,3}|тонн\w{0,3}|килограмм\w{0,3}|"
    r"грамм\w{0,3}|литр\w{0,3}|градус\w{0,3}|десятин\w{0,3}|шаг\w{0,3}|долларов|доллара?|евро|руб|коп|тыс|млн|млрд|"
    r"кг|км|см|мм|мин|сек|шт|экз|чел|%)"
)
_QUANTITY = regex.compile(
    rf"(?:[$€£₽¥]\s?{_NUMBER}(?:\s(?:thousand|million|billion|trillion|тыс|млн|млрд))?"
    rf"|\b{_NUMBER}(?:\s|-)?(?:(?:hundred|thousand|million|billion|тысяч\w?|миллион\w{{0,2}}|тыс\.?|млн\.?|млрд\.?)\s+)?"
    rf"(?:(?:square|cubic|кв\.?|куб\.?)\s+)?(?:of\s+)?(?:{_EN_UNIT}|{_RU_UNIT})\b|\b{_NUMBER}\s?[%°₽€$]C?"
    rf"|\b{_EN_NUMBER}(?:[-\s]+(?:square\s+|cubic\s+|of\s+)?){_EN_UNIT}\b"
    rf"|\b{_RU_NUMBER}{_RU_UNIT}\b)",
    regex.IGNORECASE,
)

_EN_MONTH = (
    r"(?:january|february|march|april|may|june|july|august|september|october|november|december|"
    r"(?:jan|feb|mar|apr|jun|jul|aug|sept?|oct|nov|dec)\.?)"
)
_RU_MONTH = r"(?:январ|феврал|март|апрел|ма|июн|июл|август|сентябр|октябр|ноябр|декабр)(?:[яьеюй]|ём|ем|а|у)?"
_WEEKDAY = (
    r"(?:(?:mon|tues|wednes|thurs|fri|satur|sun)day|понедельник\w?|вторник\w?|сред[ауые]|четверг\w?|пятниц[ауые]|"
    r"суббот[ауые]|воскресень[ею])"
)
_YEAR = r"(?:1[0-9]|20)\d{2}"
_DATE = regex.compile(
    rf"\b(?:(?:{_WEEKDAY},?\s+)?(?:(?:the\s+)?\d{{1,2}}(?:st|nd|rd|th)?(?:-?го)?\s+(?:of\s+)?(?:{_EN_MONTH}|{_RU_MONTH}(?!\p{{L}}))"
    rf"|{_EN_MONTH}\s+\d{{1,2}}(?:st|nd|rd|th)?)(?:,?\s+{_YEAR})?(?:\s+г(?:ода?|\.)?(?!\p{{L}}))?"
    rf"|{_EN_MONTH},?\s+{_YEAR}|{_RU_MONTH}\s+{_YEAR}(?:\s+г(?:ода?|оду|\.)?(?!\p{{L}}))?"
    rf"|{_YEAR}(?:-?м)?\s+(?:году?|года|г\.)(?!\p{{L}})|\d{{4}}-\d{{2}}-\d{{2}}|\d{{1,2}}[./]\d{{1,2}}[./]\d{{2,4}})\b",
    regex.IGNORECASE,
)


def date_spans(text: str) -> Iterable[tuple[int, int]]:
    """Yield (start, end) of every date of ``text``."""
    return ((match.start(), match.end()) for match in _DATE.finditer(text))


def quantity_spans(text: str) -> Iterable[tuple[int, int]]:
    """Yield (start, end) of every number with its unit (``140,000,000 miles``, ``двести рублей``, ``$5``)."""
    return ((match.start(), match.end()) for match in _QUANTITY.finditer(text))
