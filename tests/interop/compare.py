"""Facts of two brokers against each other.   compare.py DIFFERENCES SUITE BROOKLET KAFKA

Both files hold lines under '== COMMAND'. A line of DIFFERENCES is `SUITE | COMMAND | - or + | PATTERN | reason`: COMMAND and
PATTERN are regular expressions for all of the command's name and all of the line; `-` is what Kafka alone prints, `+` what
Brooklet alone prints. Exit 1 where a difference is not listed, or one that is listed did not occur.
"""
import difflib, re, sys

listed, suite, ours, theirs = sys.argv[1:]


def sections(path):
    found, name = {}, "start"
    for line in open(path, errors="replace").read().splitlines():
        if line.startswith("== "):
            name = line[3:]
            assert name not in found, f"two commands are called {name}"
            found[name] = []
        else:
            found.setdefault(name, []).append(line)
    return found


rules = []
for number, line in enumerate(open(listed).read().splitlines(), 1):
    if line.strip() and not line.startswith("#"):
        of, command, side, pattern, reason = [part.strip() for part in line.split(" | ", 4)]
        assert side in "+-" and reason, f"{listed}:{number}"
        if of == suite:
            rules.append([command, side, pattern, number, 0])

a, b = sections(theirs), sections(ours)
assert list(a) == list(b), f"not the same commands: {set(a) ^ set(b)}"
bad = known = 0
for name in a:
    said = False
    for line in difflib.unified_diff(a[name], b[name], lineterm="", n=0):
        if line.startswith(("---", "+++", "@@")):
            continue
        side, text = line[0], line[1:]
        rule = next((r for r in rules if r[1] == side and re.fullmatch(r[0], name) and re.fullmatch(r[2], text)), None)
        if rule:
            rule[4] += 1
            known += 1
            continue
        if not said:
            print(f"== {name}")
            said = True
        print(line)
        bad += 1
for command, side, pattern, number, uses in rules:
    if not uses:
        print(f"{listed}:{number}: no such difference: {command} {side} {pattern}")
        bad += 1
print(f"{suite}: {len(a)} commands, {known} known differences, {bad} others")
sys.exit(bool(bad))
