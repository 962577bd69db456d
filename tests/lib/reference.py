#!/usr/bin/env python3
"""The tables of columns in docs/reference.md are those of the comments.

    reference.py check      what parts: the comments in extension/sql, what the
                            catalog has of them (expected/columns.out, which the
                            test "columns" holds to it), and the document
    reference.py write      make the document's tables anew

A table stands between two lines of the document:

    <!-- columns of RELATION -->
    <!-- end of columns -->
"""
import glob
import os
import re
import sys

TOP = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..")
DOCUMENT = os.path.join(TOP, "docs", "reference.md")
TABLE = re.compile(r"(<!-- columns of (\w+) -->\n)(.*?)(<!-- end of columns -->\n)", re.S)
COMMENT = re.compile(r"^COMMENT ON COLUMN kasm_latency\.(\w+)\.(\w+) IS '((?:[^']|'')*)';$", re.M)
SHORT = {"double precision": "float8", "timestamp with time zone": "timestamptz"}


def read(*path):
    with open(os.path.join(TOP, *path)) as file:
        return file.read()


def catalog():
    """Of each relation its columns: name, type, comment."""
    text = read("expected", "columns.out")
    rows = text[text.index("\nrelation|column|type|comment\n"):].splitlines()[2:]
    relations = {}
    for row in rows:
        if row.startswith("("):
            break
        relation, column, kind, comment = row.split("|")
        relations.setdefault(relation, []).append((column, SHORT.get(kind, kind), comment))
    return relations


def table(columns):
    return "".join(f"| {' | '.join(cells)} |\n" for cells in
                   [("column", "type", "meaning, unit, source"), *columns]).replace(" |\n", " |\n|---|---|---|\n", 1)


def made_anew(document, relations):
    return TABLE.sub(lambda found: found[1] + table(relations.get(found[2], [])) + found[4], document)


def differences(document, relations):
    commented = {}
    for file in sorted(glob.glob(os.path.join(TOP, "extension", "sql", "*.sql"))):
        for relation, column, comment in COMMENT.findall(read(file)):
            commented[relation, column] = comment.replace("''", "'")
    found = {(relation, column): comment for relation, columns in relations.items() for column, _, comment in columns}
    for name in sorted(set(commented) | set(found)):
        if not found.get(name, "?"):
            yield f"column {'.'.join(name)} has no comment"
        elif commented.get(name) != found.get(name):
            yield f"the comment on {'.'.join(name)} is not that of expected/columns.out"
    described = [relation for _, relation, _, _ in TABLE.findall(document)]
    for relation in sorted(set(relations) ^ set(described)):
        yield f"docs/reference.md: columns of {relation}: not in both the document and the catalog"
    if made_anew(document, relations) != document:
        yield "docs/reference.md: its columns are not those of expected/columns.out: run \"make reference\""


def main(what):
    relations, document = catalog(), read(DOCUMENT)
    if what == "write":
        with open(DOCUMENT, "w") as file:
            file.write(made_anew(document, relations))
        return 0
    complaints = list(differences(document, relations))
    for complaint in complaints:
        print("reference: " + complaint, file=sys.stderr)
    return 1 if complaints else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:2] or ["check"]))
