"""References under the names that the text uses: "Devoto et al., 2024"."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from string import ascii_lowercase

from pybtex.database import Entry
from pybtex.plugin import register_plugin
from pybtex.style.formatting.plain import Style as PlainStyle
from pybtex.style.labels import BaseLabelStyle

STYLE = "names-and-years"


def label(entry: Entry) -> str:
    """Whom the text names: one author, two, or the first of more, and the year."""
    people = [
        " ".join([*person.prelast_names, *person.last_names]) for person in entry.persons["author"]
    ]
    people = [name.replace("{", "").replace("}", "") for name in people]
    said = people[0] if len(people) == 1 else " and ".join(people)
    return f"{said if len(people) < 3 else people[0] + ' et al.'}, {entry.fields['year']}"


class Labels(BaseLabelStyle):
    """Labels of a list; of several that are alike each gets a letter."""

    def format_labels(self, sorted_entries: Iterable[Entry]) -> Iterator[str]:
        """A label an entry, in their order."""
        labels = [label(entry) for entry in sorted_entries]
        for place, text in enumerate(labels):
            alike = labels.count(text) > 1
            yield text + ascii_lowercase[labels[:place].count(text)] if alike else text


class Style(PlainStyle):
    """The plain style, sorted by names, with these labels."""

    default_label_style = Labels


def offer_style() -> None:
    """Makes the style known, for `bibtex_default_style`."""
    register_plugin("pybtex.style.formatting", STYLE, Style)
