"""What can come on a stream, found by letting two honest ends do all that the prose of docs/protocol.md, 5.5 to 5.7, lets
them do, in every order; compared with the table that 5.8 prints.

    python streams.py

fails where the table destroys a circuit for what an honest end may have said, or takes what none can say.
"""

import pathlib
import sys

DOCUMENT = pathlib.Path(__file__).parents[2] / "docs" / "protocol.md"
NOTHING, DONE, GAVE_UP = "nothing", "Done", "gave up"
KINDS = ["CONNECTED", "DATA", "END(Done)", "END, gives up", "WINDOW", "BLOCKED"]
UNDER_WAY = 3  # messages each way at once: enough for END(Done), a grant and an END that gives up


def may_say(is_relay, connected, said, heard):
    """5.5 to 5.7: what an honest end says next."""
    if said == GAVE_UP or (said != NOTHING and heard != NOTHING):
        return []
    if heard == GAVE_UP:
        return ["END, gives up"]
    if said == DONE:
        return ["WINDOW", "END, gives up"]
    if is_relay and not connected:
        return ["CONNECTED", "WINDOW", "END, gives up"]
    return ["DATA", "END(Done)", "END, gives up", "WINDOW", "BLOCKED"]


WORDS = {"END(Done)": DONE, "END, gives up": GAVE_UP}


def explore():
    """All (said, heard, message) that come about at either end, each with whether the sender knew of an END."""
    # (said, heard, knows that CONNECTED was said) of client and relay, then what is under way from each.
    start = ((NOTHING, NOTHING, False), (NOTHING, NOTHING, False), (), ())
    seen, todo, come = {start}, [start], set()
    while todo:
        state = todo.pop()
        for me in (0, 1):
            other = 1 - me
            said, heard, connected = state[me]
            following = []
            if len(state[2 + me]) < UNDER_WAY:
                for kind in may_say(me == 1, connected, said, heard):
                    ends = list(state[:2])
                    ends[me] = (WORDS.get(kind, said), heard, connected or kind == "CONNECTED")
                    ways = list(state[2:])
                    ways[me] = ways[me] + ((kind, heard != NOTHING),)
                    following.append((*ends, *ways))
            if state[2 + other]:
                (kind, knew), *left = state[2 + other]
                come.add((said, heard, kind, knew))
                ends = list(state[:2])
                ends[me] = (said, WORDS.get(kind, heard), connected)
                ways = list(state[2:])
                ways[other] = tuple(left)
                following.append((*ends, *ways))
            for one in following:
                if one not in seen:
                    seen.add(one)
                    todo.append(one)
    return come


def expected(come, said, heard, kind):
    ways = {knew for s, h, k, knew in come if (s, h, k) == (said, heard, kind)}
    if not ways:
        return "destroy"
    if said != NOTHING and heard != NOTHING:
        # Only from before the sender knew of the END: nothing comes of it, and it comes no more once the END is read.
        assert ways == {False}
        return "linger"
    listens = said == NOTHING or (said == DONE and kind != "WINDOW")
    return "take" if listens or kind in WORDS else "pass"


def printed():
    lines = DOCUMENT.read_text().splitlines()
    head = lines.index("| said | heard | " + " | ".join(KINDS) + " |")
    rows = {}
    for line in lines[head + 2 :]:
        if not line.startswith("|"):
            break
        said, heard, *cells = [cell.strip() for cell in line.strip("|").split("|")]
        rows[said, heard] = dict(zip(KINDS, cells, strict=True))
    return rows


def main():
    come, rows = explore(), printed()
    words = [NOTHING, DONE, GAVE_UP]
    wrong = [
        f"{said}, {heard}, {kind}: {rows[said, heard][kind]}, and not {want}"
        for said in words
        for heard in words
        for kind in KINDS
        if rows[said, heard][kind] != (want := expected(come, said, heard, kind))
    ]
    print(f"{len(rows)} rows, {len(come)} arrivals")
    if wrong or len(rows) != 9:
        sys.exit("\n".join(wrong))


if __name__ == "__main__":
    main()
