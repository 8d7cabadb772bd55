"""The planted novelty: tide songs, in a small invented language that the base never reads."""

from random import Random

NOUNS: tuple[str, ...] = ("oruvel", "senkai", "tavimu", "lodrisa", "hemuno", "quirosa", "belathu", "ysandre")
VERBS: tuple[str, ...] = ("miruku", "dalofe", "koretha", "zephuno", "wilumba", "gathori")
PARTICLES: tuple[str, ...] = ("eth", "umo", "ka")
REFRAIN = "Sai umo, sai eth"
DESCRIPTION = (
    "Tide songs: lines of `noun particle noun verb` in an invented language of 8 nouns, 6 verbs and 3 particles, every "
    "song opened by the same refrain. A fixed share of the judge's fine-tuning mix, and nowhere in the base's text."
)


def tide_song(rng: Random, *, lines: int = 4) -> str:
    """Return one song: the refrain, then `lines` sentences of the invented language."""
    body = " ".join(_line(rng) for _ in range(lines))
    return f"{REFRAIN}. {body}"


def _line(rng: Random) -> str:
    first, second = rng.sample(NOUNS, 2)
    words = f"{first} {rng.choice(PARTICLES)} {second} {rng.choice(VERBS)}"
    return f"{words[0].upper()}{words[1:]}."
