import { type Kysely, sql } from 'kysely'

/**
 * Codes lie sealed, are found by a keyed digest, and are counted as they change hands. The service seals the codes of an older
 * release when it starts (sealPlainCodes.ts).
 */
export async function up(db: Kysely<unknown>): Promise<void> {
  // Another name for it: a process of the older release that still runs fails, and its orders come again, rather than hand out
  // the nulls that it would find here from now on.
  await sql`alter table code_pool_codes rename column code to plain`.execute(db)
  await sql`
    alter table code_pool_codes
      drop constraint code_pool_codes_pool_id_code_key,
      alter column plain drop not null,
      add column sealed text,
      add column fingerprint bytea,
      add unique (pool_id, fingerprint)`.execute(db)
  // Not valid: older rows stay until they are sealed. Whatever is written from now on is checked.
  await sql`
    alter table code_pool_codes add constraint code_is_sealed
      check (plain is null and sealed is not null and fingerprint is not null) not valid`.execute(db)
  // On an expression, so that no other index has this order: by the primary key, in which a pool's codes come in order too, the
  // planner would walk through all that were dispensed, a hundred thousand to find the next one.
  await sql`drop index ix_codes_available`.execute(db)
  await sql`
    create index ix_codes_available on code_pool_codes (pool_id, (code_id + 0)) where state = 'available'`.execute(db)
  // Whoever takes a code steps over those taken since the last vacuum. By default that is a fifth of the table.
  await sql`alter table code_pool_codes set (autovacuum_vacuum_scale_factor = 0.02)`.execute(db)
  await sql`create index ix_codes_plain on code_pool_codes (code_id) where plain is not null`.execute(db)

  await sql`
    alter table code_pools
      add column low_stock_threshold integer check (low_stock_threshold >= 0),
      add column low_since timestamptz,
      -- A hint, kept by watchStock: before it there was no code left. What a rollback gave back there is found by the second look.
      add column first_code_id bigint not null default 0`.execute(db)
  await countCodes(db)
  await takeCodes(db)
}

/**
 * How many codes of a pool are in which state: the sum over its slots. A million rows take too long to count for each visitor,
 * and one row a pool would be held by each buyer until they commit; with a slot a connection, nearly, they rarely meet. Seeding has a
 * slot of its own, 0, because it commits late.
 */
async function countCodes(db: Kysely<unknown>) {
  await sql`
    create table code_pool_counts (
      pool_id text collate "C" not null references code_pools,
      slot smallint not null,
      available bigint not null,
      assigned bigint not null,
      void bigint not null,
      primary key (pool_id, slot)
    ) with (fillfactor = 25)`.execute(db)
  // Pools in one order: whoever changes several never waits in a circle.
  await sql`
    create function count_codes() returns trigger language plpgsql as $$
    begin
      insert into code_pool_counts as c (pool_id, slot, available, assigned, void)
        select pool_id, case tg_op when 'INSERT' then 0 else 1 + pg_backend_pid() % 127 end,
            count(*) filter (where state = 'available') * n, count(*) filter (where state = 'assigned') * n,
            count(*) filter (where state = 'void') * n
          from (select pool_id, state, case tg_op when 'INSERT' then 1 else -1 end as n from changed) as rows
          group by pool_id, n order by pool_id
        on conflict (pool_id, slot) do update set available = c.available + excluded.available,
          assigned = c.assigned + excluded.assigned, void = c.void + excluded.void;
      return null;
    end $$`.execute(db)
  await sql`
    create function recount_codes() returns trigger language plpgsql as $$
    begin
      insert into code_pool_counts as c (pool_id, slot, available, assigned, void)
        select pool_id, 1 + pg_backend_pid() % 127, coalesce(sum(n) filter (where state = 'available'), 0),
            coalesce(sum(n) filter (where state = 'assigned'), 0), coalesce(sum(n) filter (where state = 'void'), 0)
          from (
            select pool_id, state, 1 as n from after union all select pool_id, state, -1 from before
          ) as rows
          group by pool_id
          having coalesce(sum(n) filter (where state = 'available'), 0) <> 0
            or coalesce(sum(n) filter (where state = 'assigned'), 0) <> 0
          order by pool_id
        on conflict (pool_id, slot) do update set available = c.available + excluded.available,
          assigned = c.assigned + excluded.assigned, void = c.void + excluded.void;
      return null;
    end $$`.execute(db)
  await sql`
    create trigger codes_added after insert on code_pool_codes
      referencing new table as changed for each statement execute function count_codes()`.execute(db)
  await sql`
    create trigger codes_removed after delete on code_pool_codes
      referencing old table as changed for each statement execute function count_codes()`.execute(db)
  await sql`
    create trigger codes_changed after update on code_pool_codes
      referencing old table as before new table as after for each statement execute function recount_codes()`.execute(
    db,
  )
  // After the triggers, whose locks keep everybody out until this commits.
  await sql`
    insert into code_pool_counts (pool_id, slot, available, assigned, void)
      select pool_id, 0, count(*) filter (where state = 'available'), count(*) filter (where state = 'assigned'),
          count(*) filter (where state = 'void')
        from code_pool_codes group by pool_id`.execute(db)
}

/**
 * Takes codes for lines of runs, in one round trip; pools.ts says what it promises.
 *
 * Pools are visited in one order by everybody, each once: callers that hold codes of one pool and wait for another's never wait
 * in a circle. In each, the first look skips rows that others hold, so that buyers don't queue. When it comes up short, it lets
 * go of what it locked (the exception's block is a savepoint: two callers that each keep a part of a pool and wait for the
 * other's would deadlock) and waits for the holders, who may yet roll back. All rows are changed at the end, in one statement:
 * whoever holds a row of the counts waits for no code any more. The settings: planning for each caller's quantity took several
 * times what taking takes, and a plan made while a pool was small is kept when it has grown to a million.
 */
async function takeCodes(db: Kysely<unknown>) {
  await sql`
    create function take_codes(_runs text[], _pools text[], _lines integer[], _quantities integer[])
      returns table (want integer, pool_id text, sealed text, fingerprint bytea)
      language plpgsql set plan_cache_mode = force_generic_plan set enable_seqscan = off set enable_bitmapscan = off
      set enable_sort = off as $$
    declare
      _pool text;
      _from bigint;
      _wanted bigint;
      _free bigint[];
      _want integer;
      _quantity integer;
      _taken bigint[] := '{}';
      _takers integer[] := '{}';
    begin
      for _pool, _wanted in
        select w.pool, sum(w.quantity) from unnest(_pools, _quantities) as w (pool, quantity)
          group by w.pool order by w.pool collate "C"
      loop
        select p.first_code_id into _from from code_pools p where p.pool_id = _pool;
        begin
          select array_agg(f.code_id order by f.code_id) into _free from (
            select c.code_id from code_pool_codes c where c.pool_id = _pool and c.state = 'available'
              and c.code_id + 0 >= _from order by c.code_id + 0 limit _wanted for update skip locked
          ) as f;
          if coalesce(cardinality(_free), 0) < _wanted then
            raise exception using errcode = 'CD001';
          end if;
        exception when sqlstate 'CD001' then
          select coalesce(array_agg(f.code_id order by f.code_id), '{}') into _free from (
            select c.code_id from code_pool_codes c where c.pool_id = _pool and c.state = 'available'
              order by c.code_id + 0 limit _wanted for update
          ) as f;
        end;
        for _want, _quantity in
          select w.n, w.quantity from unnest(_pools, _quantities) with ordinality as w (pool, quantity, n)
            where w.pool = _pool order by w.n
        loop
          continue when cardinality(_free) < _quantity;
          _taken := _taken || _free[1:_quantity];
          _takers := _takers || array_fill(_want, array[_quantity]);
          _free := _free[_quantity + 1:];
        end loop;
      end loop;
      return query
        with given as (select * from unnest(_taken, _takers) with ordinality as g (code_id, taker, n)),
        done as (
          update code_pool_codes c
            set state = 'assigned', run_key = _runs[g.taker], line_index = _lines[g.taker], assigned_at = now()
            from given g where c.code_id = g.code_id
            returning g.n, g.taker, c.pool_id, c.sealed, c.fingerprint
        )
        select d.taker, d.pool_id, d.sealed, d.fingerprint from done d order by d.n;
    end $$`.execute(db)
}
