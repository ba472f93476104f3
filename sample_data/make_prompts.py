"""Makes prompts of many kinds with short reference answers, to learn routers from and to test them on.

    python sample_data/make_prompts.py             # the large table, build/prompts.parquet (--output: elsewhere)
    python sample_data/make_prompts.py --check     # and say how alike training and test prompts are
    python sample_data/make_prompts.py --demo      # and draw the demo's two tables from it

The seed is fixed: the same code gives the same rows.
"""

from __future__ import annotations

import argparse
import random
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import near_copies
import pyarrow as pa
import pyarrow.parquet as pq
from prompt_kinds import arithmetic, extraction, normalising, reasoning, texts, words
from prompt_kinds.world import Item, Make, World

SEED = 2404
LEVELS = (1, 2, 3)
SPLITS = {"train": 14, "validation": 3, "test": 6}
"""Prompts of each kind and level."""
FEWEST_WORDS = {1: 0, 2: 24, 3: 34}
"""What a prompt of each level is filled up to by sentences in front that have nothing to do with the point."""
MOST_DRAWS = 4000

FOLDER = Path(__file__).parent
PROMPTS, PROMPT_DUPLICATES = 300, 8
BACKLOG, BACKLOG_DUPLICATES = 120, 4
BAD_PROMPTS: tuple[str | None, ...] = (None, "   \n")

TEXTS = ("id", "task", "team", "prompt", "reference", "split")
SCHEMA = pa.schema([*((name, pa.string()) for name in TEXTS), ("level", pa.int8())])

KINDS: dict[str, tuple[Make, tuple[str, ...]]] = {
    **texts.KINDS,
    **extraction.KINDS,
    **normalising.KINDS,
    **words.KINDS,
    **arithmetic.KINDS,
    **reasoning.KINDS,
}
"""What draws a prompt of each kind, and the teams (made up, to group a report by) that ask such things."""

Row = dict[str, str | int | None]


def drawn(make: Make, world: World, level: int) -> Item:
    prompt, reference = make(world, level)
    fillers = world.fillers(3, named=False)  # names might be taken for the answer
    while len(prompt.split()) < FEWEST_WORDS[level] and fillers:
        filler = fillers.pop()
        if filler not in prompt:
            prompt = f"{filler} {prompt}"
    return prompt, reference


def of_kind(task: str, seed: int, unwanted: frozenset[str]) -> list[Row]:
    """All prompts of a kind: as many of each level in each split as `SPLITS` says, none twice, no near-copies.

    Raises:
        RuntimeError: the kind's lists are too short for that.
    """
    make, teams = KINDS[task]
    rng = random.Random(f"{seed}/{task}")
    seen = set[str]()
    earlier: dict[str, near_copies.Seen] = {}
    rows: list[Row] = []
    for split, count in SPLITS.items():
        world = World(rng, held_out=split != "train")
        of_split = near_copies.Seen()
        for level in LEVELS:
            found = 0
            for _ in range(MOST_DRAWS):
                prompt, reference = drawn(make, world, level)
                if prompt in seen or near_copies.mark(prompt) in unwanted:
                    continue
                if any(of.jaccard(prompt) > near_copies.MOST_JACCARD[name] for name, of in earlier.items()):
                    continue
                seen.add(prompt)
                of_split.add(prompt)
                found += 1
                rows.append(
                    {"task": task, "team": rng.choice(teams), "prompt": prompt, "reference": reference}
                    | {"split": split, "level": level}
                )
                if found == count:
                    break
            else:
                raise RuntimeError(f"{task}, level {level}: {found} of {count} {split} prompts; lengthen its lists")
        earlier[split] = of_split
    return rows


def large_table(seed: int = SEED, unwanted: frozenset[str] | None = None) -> list[Row]:
    """Rows of all kinds in random order; ids say nothing about kind, split or level."""
    unwanted = near_copies.left_out() if unwanted is None else unwanted
    made = [row for task in KINDS for row in of_kind(task, seed, unwanted)]
    random.Random(f"{seed}/order").shuffle(made)
    return [{"id": f"q-{number:05d}", **row} for number, row in enumerate(made)]


def write(rows: Sequence[Row], path: Path, without: Sequence[str] = ()) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(list(rows), schema=SCHEMA).drop_columns(list(without)), path)
    print(f"{path}: {len(rows)} rows, {dict(Counter(row['split'] for row in rows))}")


def stratified(rows: Sequence[Row], split: str, count: int) -> list[Row]:
    """`count` rows of a split, as evenly over kinds and levels as that goes."""
    groups: dict[tuple[str, int], list[Row]] = {}
    for row in rows:
        if row["split"] == split:
            groups.setdefault((str(row["task"]), int(row["level"] or 0)), []).append(row)
    # A kind's turn has one level: first of some kinds the easy one, of others the hard one.
    turns = [
        groups[task, LEVELS[(turn + place) % 3]][turn // 3]
        for turn in range(3 * SPLITS[split])
        for place, task in enumerate(KINDS)
    ]
    return turns[:count]


def with_duplicates(rows: Sequence[Row], prefix: str, duplicates: int, rng: random.Random) -> list[Row]:
    """The rows in random order under new ids, `duplicates` of them twice, as in real tables."""
    chosen = [*rows, *rng.sample(list(rows), duplicates)]
    rng.shuffle(chosen)
    return [{**row, "id": f"{prefix}-{number:04d}"} for number, row in enumerate(chosen)]


def demo_tables(rows: Sequence[Row], seed: int = SEED) -> dict[str, list[Row]]:
    """`prompts` to learn from, out of the train split, and `backlog` to answer, out of the test split.

    The backlog ends with two rows that no model can answer.
    """
    rng = random.Random(seed)
    prompts = stratified(rows, "train", PROMPTS - PROMPT_DUPLICATES)
    backlog = stratified(rows, "test", BACKLOG - BACKLOG_DUPLICATES - len(BAD_PROMPTS))
    tables = {
        "prompts": with_duplicates(prompts, "p", PROMPT_DUPLICATES, rng),
        "backlog": with_duplicates(backlog, "b", BACKLOG_DUPLICATES, rng),
    }
    for bad in BAD_PROMPTS:
        number = len(tables["backlog"])
        tables["backlog"].append(
            {"id": f"b-{number:04d}", "task": "topic", "team": "support", "prompt": bad, "split": "test", "level": 1}
        )
    return tables


def check(rows: list[Row], seed: int = SEED) -> list[Row]:
    """The rows after those too close to a training prompt, by embedding, were replaced; prints what was found.

    The marks of those left out go into `near_copies.txt`, so that a run without the check makes the same table.
    """
    embedder = near_copies.Embedder()
    unwanted = near_copies.left_out()
    while True:
        train = [str(row["prompt"]) for row in rows if row["split"] == "train"]
        held_out = [row for row in rows if row["split"] != "train"]
        cosines = embedder.vectors([str(row["prompt"]) for row in held_out]) @ embedder.vectors(train).T
        close = [row for row, most in zip(held_out, cosines.max(axis=1), strict=True) if most > near_copies.MOST_COSINE]
        if not close:
            break
        print(f"{len(close)} of {len(held_out)} prompts replaced: {dict(Counter(row['task'] for row in close))}")
        unwanted |= {near_copies.mark(str(row["prompt"])) for row in close}
        rows = large_table(seed, unwanted)
    if unwanted:
        near_copies.LIST.write_text("".join(f"{mark}\n" for mark in sorted(unwanted)))
    seen = near_copies.Seen(train)
    print(
        f"largest similarity of a validation or test prompt to a training prompt\n{'kind':16} {'runs':>5} {'cosine':>6}"
    )
    for task in [*KINDS, "all"]:
        of_task = [place for place, row in enumerate(held_out) if task in (row["task"], "all")]
        runs = max(seen.jaccard(str(held_out[place]["prompt"])) for place in of_task)
        place = max(of_task, key=lambda place: cosines[place].max())
        print(f"{task:16} {runs:5.2f} {cosines[place].max():6.3f}")
    print(f"the closest: {held_out[place]['prompt']!r}\n         and {train[int(cosines[place].argmax())]!r}")
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--output", type=Path, default=FOLDER.parent / "build" / "prompts.parquet")
    parser.add_argument("--check", action="store_true", help="look for near-copies by embedding, and replace them")
    parser.add_argument("--demo", action="store_true", help="write sample_data/prompts.parquet and backlog.parquet too")
    options = parser.parse_args()
    rows = large_table()
    if options.check:
        rows = check(rows)
    write(rows, options.output)
    if options.demo:
        for name, table in demo_tables(rows).items():
            # Each is of one split. `train` divides what `label` makes of the prompts.
            write(table, FOLDER / f"{name}.parquet", without=["split"])


if __name__ == "__main__":
    main()
