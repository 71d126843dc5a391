"""Reads pages."""

from html.parser import HTMLParser

VOID = {"meta", "img", "br", "input", "wbr"}


class Page(HTMLParser):
    """Checks that all tags are closed; collects tags with their attributes, and texts by tag."""

    def __init__(self, html):
        super().__init__()
        self.open, self.classes, self.tags, self.text = [], [], [], []
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)
            self.classes.append(dict(attributes).get("class"))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag
        self.classes.pop()

    def handle_data(self, data):
        self.text.append((self.open[-1] if self.open else "", self.classes[-1] if self.classes else None, data))

    def all(self, tag):
        """The texts of all tags of this kind."""
        return [data for name, _, data in self.text if name == tag]

    def of_class(self, name):
        """The only text in a tag of this class."""
        (data,) = [data for _, given, data in self.text if given == name]
        return data
