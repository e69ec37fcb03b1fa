"""The document: tables stand between markers, the text around them is written by hand and left alone."""

import os

from common_machine import Trouble, read_text

NAME = "offload-policies.md"
SECTIONS = [("about", "How it was made"), ("traces", "The traces"), ("slots", "Hits alone"),
            ("policy", "What the policy is worth"), ("best-policy", "Where another policy is better"),
            ("prefetch", "What prefetch is worth"), ("default-prefetch", "The default predictor"),
            ("prefetched", "Where prefetched bytes go"), ("best-pair", "Where another pair is better"),
            ("oracle", "How much is left"), ("speeds", "Speeds"), ("device", "On the device")]


def marks(key):
    return f"<!-- study: {key} -->", f"<!-- end: {key} -->"


def skeleton():
    lines = ["# Policies and predictors for experts on a drive", ""]
    for key, title in SECTIONS:
        lines += [f"## {title}", "", *marks(key), ""]
    return "\n".join(lines)


class Document:
    def __init__(self, folder):
        self.path = os.path.join(folder, NAME)
        try:
            os.makedirs(folder, exist_ok=True)
        except OSError as error:
            raise Trouble(f"cannot make {folder}: {error.strerror}") from error
        self.text = read_text(self.path) or skeleton()
        for key, _ in SECTIONS:
            begin, end = marks(key)
            if self.text.count(begin) != 1 or self.text.count(end) != 1 or self.text.index(begin) > self.text.index(end):
                raise Trouble(f"{self.path} needs the lines '{begin}' and '{end}' once, in this order")

    def put(self, key, lines):
        """Replaces what stands between the markers, and writes the file."""
        begin, end = marks(key)
        before, rest = self.text.split(begin)
        self.text = f"{before}{begin}\n" + "\n".join(["", *lines, ""]) + f"\n{end}{rest.split(end)[1]}"
        try:
            with open(self.path + ".part", "w", encoding="utf-8") as file:
                file.write(self.text.rstrip() + "\n")
            os.replace(self.path + ".part", self.path)
        except OSError as error:
            raise Trouble(f"cannot write {self.path}: {error.strerror}") from error
