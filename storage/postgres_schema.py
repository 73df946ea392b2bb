"""The tables and procedures of a store in PostgreSQL, and their version.

Theory of operation: `rows` is the store; all else serves the commit. `commit_group` is one call and so one round
trip, and runs wholly on the server: an engine that is stopped or cut off in the middle of it holds nobody up. It
first takes the lock on `turn`, then its snapshot (SERIALIZABLE takes it at the first query, not at BEGIN), so commits
happen one after another, each sees all before it, and `head.version` counts them in their order. The order of commits
is the order of version numbers, and so of versionstamps, because the lock is held until the commit is done.

`commits` tells what recent commits wrote, so that a group of transactions that read an older version can be checked:
the rule is FoundationDB's, a real read of what was written since is a conflict. The caller has checked its own
commits already; only those of other sessions are looked at here.

Tables that only speak of what is under way are UNLOGGED: they cost no write-ahead log, and a crash empties them all at
once, together with the connections they speak of. A session that is not in `sessions` may not commit. That fences
the commits of a lost connection: who registers anew strikes the old session out, under the same lock.
"""

from __future__ import annotations

import re
from typing import Final

import asyncpg

from windlass.storage.port import StorageError, StoreFormat

FORMAT: Final = "1"
#: Low 16 bits of a commit version: the place of a transaction in its group.
GROUP_BITS: Final = 16
FENCED: Final = "WL001"
TOO_OLD: Final = "WL002"

_SCHEMA_NAME: Final = re.compile(r"[a-z_][a-z0-9_]{0,47}")
_DDL_LOCK: Final = 0x77696E64  # any number, the same for all

_TABLES: Final = """
CREATE TABLE about (name text PRIMARY KEY, value text NOT NULL);
CREATE TABLE rows (key bytea PRIMARY KEY, value bytea NOT NULL)
    WITH (autovacuum_vacuum_scale_factor = 0.02, autovacuum_analyze_scale_factor = 0.5);
CREATE TABLE turn ();
CREATE SEQUENCE versions;
-- boot changes with every crash; version is that of the last commit; up to floor, commits have been forgotten.
CREATE UNLOGGED TABLE head (boot uuid NOT NULL, version bigint NOT NULL, floor bigint NOT NULL) WITH (fillfactor = 10);
CREATE UNLOGGED TABLE sessions (id uuid PRIMARY KEY, since timestamptz NOT NULL DEFAULT clock_timestamp());
CREATE UNLOGGED TABLE commits (
    version bigint PRIMARY KEY, session uuid NOT NULL, at timestamptz NOT NULL DEFAULT clock_timestamp(),
    keys bytea[] NOT NULL, begins bytea[] NOT NULL, ends bytea[] NOT NULL);
ALTER TABLE commits ALTER keys SET STORAGE EXTERNAL;
CREATE UNLOGGED TABLE watches (
    listener text NOT NULL, id bigint NOT NULL, key bytea NOT NULL, seen timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (listener, id));
CREATE INDEX ON watches (key);
"""

# Signed 64-bit little-endian addition that wraps, in two halves because bigint addition refuses to overflow.
_COUNTER: Final = """
CREATE FUNCTION counter_number(held bytea) RETURNS bigint LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT get_byte(b, 0)::bigint | (get_byte(b, 1)::bigint << 8) | (get_byte(b, 2)::bigint << 16)
         | (get_byte(b, 3)::bigint << 24) | (get_byte(b, 4)::bigint << 32) | (get_byte(b, 5)::bigint << 40)
         | (get_byte(b, 6)::bigint << 48) | (get_byte(b, 7)::bigint << 56)
    FROM (SELECT substring(coalesce(held, '') || '\\x0000000000000000'::bytea FROM 1 FOR 8) AS b) AS filled
$$;
CREATE FUNCTION counter_bytes(number bigint) RETURNS bytea LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT substring(b FROM 8 FOR 1) || substring(b FROM 7 FOR 1) || substring(b FROM 6 FOR 1)
        || substring(b FROM 5 FOR 1) || substring(b FROM 4 FOR 1) || substring(b FROM 3 FOR 1)
        || substring(b FROM 2 FOR 1) || substring(b FROM 1 FOR 1)
    FROM (SELECT int8send(number) AS b) AS sent
$$;
CREATE FUNCTION counter_sum(held bytea, number bigint) RETURNS bytea LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT counter_bytes((high << 32) | (low & 4294967295))
    FROM (SELECT low, ((n >> 32) + (number >> 32) + (low >> 32)) & 4294967295 AS high
          FROM (SELECT n, (n & 4294967295) + (number & 4294967295) AS low
                FROM counter_number(held) AS n) AS lower) AS halves
$$;
"""

# Registers a session that may commit, and strikes out the one whose connection was lost. After it, nothing of the old
# session can land any more.
_OPEN_SESSION: Final = """
CREATE PROCEDURE open_session(
    p_session uuid, p_lost uuid, INOUT r_boot uuid, INOUT r_version bigint
) LANGUAGE plpgsql AS $$
BEGIN
    COMMIT;
    SET TRANSACTION ISOLATION LEVEL SERIALIZABLE;
    LOCK TABLE turn IN EXCLUSIVE MODE;
    DELETE FROM sessions WHERE id = p_lost OR since < clock_timestamp() - interval '30 days';
    INSERT INTO sessions (id) VALUES (p_session);
    IF NOT EXISTS (SELECT FROM head) THEN
        INSERT INTO head SELECT gen_random_uuid(), v, v FROM nextval('versions') AS v;
    END IF;
    SELECT boot, version INTO r_boot, r_version FROM head;
END $$;
"""

# Members are the transactions of the group, by number. Points and spans are what they read, each with the version it
# was read at. With a conflict nothing is committed and r_conflicts tells the members; else r_version is the group's.
_COMMIT_GROUP: Final = """
CREATE PROCEDURE commit_group(
    p_session uuid, p_oldest bigint,
    p_point_member int[], p_point bytea[], p_point_at bigint[],
    p_span_member int[], p_span_begin bytea[], p_span_end bytea[], p_span_at bigint[],
    p_clear_begin bytea[], p_clear_end bytea[], p_remove bytea[], p_set bytea[], p_value bytea[],
    p_add bytea[], p_number bigint[],
    p_stamp_prefix bytea[], p_stamp_member int[], p_stamp_suffix bytea[], p_stamp_value bytea[],
    p_touch bytea[], p_listener text, p_watch bigint[], p_watch_key bytea[],
    INOUT r_version bigint, INOUT r_conflicts int[]
) LANGUAGE plpgsql AS $$
DECLARE
    v_floor bigint;
    v_stamped bytea[];
    v_written bytea[];
    v_fired record;
BEGIN
    COMMIT;
    SET TRANSACTION ISOLATION LEVEL SERIALIZABLE;
    LOCK TABLE turn IN EXCLUSIVE MODE;
    IF NOT EXISTS (SELECT FROM sessions WHERE id = p_session) THEN
        RAISE EXCEPTION 'this session is not registered any more' USING ERRCODE = 'WL001';
    END IF;
    IF p_oldest IS NOT NULL THEN
        SELECT floor INTO v_floor FROM head;
        IF p_oldest < v_floor THEN
            RAISE EXCEPTION 'a transaction is too old to be checked' USING ERRCODE = 'WL002';
        END IF;
        IF EXISTS (SELECT FROM commits WHERE version > p_oldest AND session <> p_session) THEN
            r_conflicts := conflicting(p_session, p_oldest, p_point_member, p_point, p_point_at,
                                       p_span_member, p_span_begin, p_span_end, p_span_at);
            IF r_conflicts IS NOT NULL THEN
                RETURN;
            END IF;
        END IF;
    END IF;

    r_version := nextval('versions');
    IF cardinality(p_clear_begin) > 0 THEN
        DELETE FROM rows USING unnest(p_clear_begin, p_clear_end) AS c(b, e) WHERE key >= c.b AND key < c.e;
    END IF;
    IF cardinality(p_remove) > 0 THEN
        DELETE FROM rows WHERE key = ANY (p_remove);
    END IF;
    IF cardinality(p_set) > 0 THEN
        INSERT INTO rows SELECT * FROM unnest(p_set, p_value) ON CONFLICT (key) DO UPDATE SET value = excluded.value;
    END IF;
    IF cardinality(p_add) > 0 THEN
        INSERT INTO rows SELECT k, counter_bytes(n) FROM unnest(p_add, p_number) AS a(k, n)
        ON CONFLICT (key) DO UPDATE SET value = counter_sum(rows.value, counter_number(excluded.value));
    END IF;
    IF cardinality(p_stamp_prefix) > 0 THEN
        WITH stamped AS (
            INSERT INTO rows
            SELECT p || int8send((r_version << 16) | m) || '\\x0000'::bytea || s, v
            FROM unnest(p_stamp_prefix, p_stamp_member, p_stamp_suffix, p_stamp_value) AS t(p, m, s, v)
            ON CONFLICT (key) DO UPDATE SET value = excluded.value RETURNING key
        ) SELECT array_agg(key) INTO v_stamped FROM stamped;
    END IF;

    v_written := p_remove || p_set || p_add || v_stamped;
    INSERT INTO commits (version, session, keys, begins, ends)
        VALUES (r_version, p_session, v_written || p_touch, p_clear_begin, p_clear_end);
    UPDATE head SET version = r_version;
    IF EXISTS (SELECT FROM watches) THEN
        FOR v_fired IN
            DELETE FROM watches AS w
            WHERE w.key = ANY (v_written)
               OR EXISTS (SELECT FROM unnest(p_clear_begin, p_clear_end) AS c(b, e) WHERE w.key >= c.b AND w.key < c.e)
            RETURNING w.listener, w.id
        LOOP
            PERFORM pg_notify('windlass_' || v_fired.listener, v_fired.id::text);
        END LOOP;
    END IF;
    IF cardinality(p_watch) > 0 THEN
        INSERT INTO watches (listener, id, key) SELECT p_listener, w, k FROM unnest(p_watch, p_watch_key) AS t(w, k);
    END IF;
    IF r_version % 512 = 0 THEN
        WITH forgotten AS (
            DELETE FROM commits WHERE at < clock_timestamp() - interval '30 seconds' RETURNING version
        ) UPDATE head SET floor = greatest(floor, (SELECT max(version) FROM forgotten));
    END IF;
END $$;
"""

_CONFLICTING: Final = """
CREATE FUNCTION conflicting(
    p_session uuid, p_oldest bigint, p_point_member int[], p_point bytea[], p_point_at bigint[],
    p_span_member int[], p_span_begin bytea[], p_span_end bytea[], p_span_at bigint[]
) RETURNS int[] LANGUAGE sql AS $$
    WITH recent AS MATERIALIZED (
        SELECT version, keys, begins, ends FROM commits WHERE version > p_oldest AND session <> p_session
    ), written AS MATERIALIZED (
        SELECT key, max(version) AS version FROM recent, unnest(keys) AS key GROUP BY key
    ), cleared AS MATERIALIZED (
        SELECT c.b, c.e, version FROM recent, unnest(begins, ends) AS c(b, e)
    ), points AS (
        SELECT * FROM unnest(p_point_member, p_point, p_point_at) AS t(member, key, at)
    ), spans AS (
        SELECT * FROM unnest(p_span_member, p_span_begin, p_span_end, p_span_at) AS t(member, b, e, at)
    )
    SELECT array_agg(DISTINCT member) FROM (
        SELECT member FROM points JOIN written USING (key) WHERE version > at
        UNION ALL SELECT member FROM points JOIN cleared ON key >= b AND key < e WHERE version > at
        UNION ALL SELECT member FROM spans JOIN written ON key >= b AND key < e WHERE version > at
        UNION ALL SELECT member FROM spans AS s JOIN cleared AS c ON s.b < c.e AND c.b < s.e WHERE version > at
    ) AS conflicts
$$;
"""

_DDL: Final = _TABLES + _COUNTER + _CONFLICTING + _OPEN_SESSION + _COMMIT_GROUP


def check_schema_name(schema: str) -> None:
    """Raise `StorageError` unless `schema` can be used unquoted."""
    if not _SCHEMA_NAME.fullmatch(schema):
        raise StorageError(f"schema name {schema!r}: lower-case letters, digits and _ are allowed, at most 48 of them")


async def ensure_schema(connection: asyncpg.Connection[asyncpg.Record], schema: str) -> None:
    """Create the store's schema, or hold its format against ours. `schema` is the first of the search path.

    Raises `StoreFormat` if the schema is something else or of another format.
    """
    async with connection.transaction():
        await connection.execute("SELECT pg_advisory_xact_lock($1)", _DDL_LOCK)
        if await connection.fetchval("SELECT to_regclass($1)", f"{schema}.about") is None:
            await _create(connection, schema)
            return
        found = await connection.fetchval("SELECT value FROM about WHERE name = 'format'")
    if found != FORMAT:
        raise StoreFormat(f"the store in schema {schema} has format {found!r}; this program knows {FORMAT!r}")


async def _create(connection: asyncpg.Connection[asyncpg.Record], schema: str) -> None:
    await connection.execute(f"CREATE SCHEMA IF NOT EXISTS {schema}")
    if await connection.fetchval("SELECT count(*) FROM pg_class WHERE relnamespace = $1::regnamespace", schema):
        raise StoreFormat(f"schema {schema} has tables, but not of a Windlass store: choose another with ?schema=")
    await connection.execute(_DDL)
    await connection.execute("INSERT INTO about VALUES ('format', $1)", FORMAT)
