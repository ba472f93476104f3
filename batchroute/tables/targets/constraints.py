"""What a warehouse's table demands of its rows beside types: unique keys, checks and the like, from its catalog."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, NamedTuple

from batchroute.tables.queries import literal, quoted
from batchroute.tables.targets.matching import Match

# One row for each column of a constraint: its name, what it is, and the column; null for an expression.
_POSTGRESQL = """select c.relname, 'unique key', case when x.indpred is null then a.attname end, k.number
from pg_index x join pg_class c on c.oid = x.indexrelid
cross join unnest(x.indkey::int2[]) with ordinality as k (attnum, number)
left join pg_attribute a on a.attrelid = x.indrelid and a.attnum = k.attnum
where x.indrelid = to_regclass({table}) and x.indisunique and k.number <= x.indnkeyatts
union all select n.conname, case n.contype when 'c' then 'check' when 'f' then 'foreign key' else 'exclusion' end,
a.attname, a.attnum from pg_constraint n
left join pg_attribute a on a.attrelid = n.conrelid and a.attnum = any(n.conkey)
where n.conrelid = to_regclass({table}) and n.contype in ('c', 'f', 'x')
union all select n.conname, 'check', a.attname, a.attnum from pg_attribute a join pg_constraint n
on n.contypid = a.atttypid where a.attrelid = to_regclass({table}) and n.contype = 'c' and a.attnum > 0
union all select t.tgname, 'trigger', null, 0 from pg_trigger t
where t.tgrelid = to_regclass({table}) and not t.tgisinternal and t.tgtype & 4 > 0 order by 1, 4"""
_SQLITE = """select l.name, 'unique key', case when l.partial = 0 then i.name end, i.seqno
from pragma_index_list({name}) as l join pragma_index_info(l.name) as i where l."unique"
union all select 'primary key', 'unique key', x.name, x.pk from pragma_table_xinfo({name}) as x where x.pk > 0
union all select m.name, 'trigger', null, 0 from sqlite_master as m
where m.type = 'trigger' and lower(m.tbl_name) = lower({name}) order by 1, 4"""
_SQLITE_SQL = "select sql from sqlite_master where lower(name) = lower({name})"
_SQLITE_CHECK = re.compile(r"\bcheck\s*\(", re.IGNORECASE)
_QUOTED = re.compile(r"""'(?:[^']|'')*'|"(?:[^"]|"")*"|--[^\n]*|/\*.*?\*/""", re.DOTALL)
_DUCKDB = """select constraint_name,
case constraint_type when 'CHECK' then 'check' when 'FOREIGN KEY' then 'foreign key'
else 'unique key' end, unnest(constraint_column_names), generate_subscripts(constraint_column_names, 1)
from duckdb_constraints() where constraint_type <> 'NOT NULL' and {where}
union all select index_name, 'unique key', null, 0 from duckdb_indexes() where is_unique and not is_primary
and {where} order by 1, 4"""
_DUCKDB_WHERE = "lower(table_name) = lower({name}) and schema_name = {schema}"


class Key(NamedTuple):
    """Columns of the answers of which the table takes no two rows with the same values. Nulls are never the same."""

    name: str
    columns: tuple[str, ...]


class Constraints(NamedTuple):
    """What the rows have to keep."""

    keys: tuple[Key, ...] = ()
    others: tuple[str, ...] = ()
    """Each in words. Whether rows keep them shows when they are loaded."""

    def note(self, public: str) -> list[str]:
        """
        Args:
            public: the table, as messages name it.
        """
        if not self.others:
            return []
        return [
            f"{public} has constraints, and only the load shows whether the answers keep them: {'; '.join(self.others)}"
        ]


def constraints_of(
    scheme: str, cursor: Any, schema: str | None, name: str, match: Match, results: Iterable[str], unique: str | None
) -> Constraints:
    """
    Args:
        scheme: the driver: postgresql, sqlite or duckdb.
        match: the columns of the answers that the table has.
        results: the columns of the answers that are not of the input.
        unique: a column of the answers that tells all rows of the table apart once they are loaded, if there is one.
    """
    found: dict[tuple[str, str], list[str | None]] = {}
    for constraint, kind, column in _rows(scheme, cursor, schema, name):
        found.setdefault((constraint, kind), []).append(column)
    keys, others, results = [], [], set(results)
    for (constraint, kind), columns in found.items():
        ours = [None if column is None else match.ours.get(column) for column in columns]
        if None not in columns and not any(ours):
            continue  # its columns get nothing
        if kind == "unique key" and unique is not None and unique in ours:
            continue
        if kind == "unique key" and all(ours) and results.isdisjoint(ours):
            keys.append(Key(constraint, tuple(map(str, ours))))
        else:
            of = "" if None in columns else f" ({', '.join(map(str, columns))})"
            others.append(f"{kind} {constraint}{of}")
    return Constraints(tuple(keys), tuple(others))


def _rows(scheme: str, cursor: Any, schema: str | None, name: str) -> list[tuple[str, str, str | None]]:
    table = ".".join(quoted(part) for part in (schema, name) if part)
    places = {"table": literal(table), "name": literal(name), "schema": literal(schema or "main")}
    places["where"] = _DUCKDB_WHERE.format(**places)
    cursor.execute({"postgresql": _POSTGRESQL, "sqlite": _SQLITE, "duckdb": _DUCKDB}[scheme].format(**places))
    rows = [(str(row[0]), str(row[1]), row[2]) for row in cursor.fetchall()]
    if scheme == "sqlite":
        cursor.execute(_SQLITE_SQL.format(**places))
        if any(_SQLITE_CHECK.search(_QUOTED.sub("", row[0] or "")) for row in cursor.fetchall()):
            rows.append(("of its columns", "check", None))
    return rows
