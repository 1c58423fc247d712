import { randomUUID } from 'node:crypto'
import { serve } from '@hono/node-server'
import { Hono } from 'hono'
import pg from 'pg'

// What the machine gives at best for what the buyer's API does: Hono and the driver, alone in a process, doing the same kind of
// rows without any rule. `/row/<basket id>` one row by key, `/write` one update in a transaction, `/checkout` the statements of a
// checkout.
const [port, connectionString] = process.argv.slice(2)
const pool = new pg.Pool({ connectionString, max: 20 })
await pool.query(`
  create table if not exists bench_rows (id text primary key, version bigint not null default 0, document jsonb not null);
  create table if not exists bench_orders (id text primary key, basket_id text not null unique, document jsonb not null);
  create table if not exists bench_lines (order_id text references bench_orders, line integer, sku text, primary key (order_id, line));
  create table if not exists bench_history (id bigint generated always as identity primary key, order_id text references bench_orders, status text);
  insert into bench_rows select 'row-' || n, 0, jsonb_build_object('text', repeat('x', 1500)) from generate_series(1, 1000) n
    on conflict do nothing`)
let next = 0
const anyRow = () => `row-${(next = (next % 1000) + 1)}`

async function transaction<T>(work: (client: pg.PoolClient) => Promise<T>): Promise<T> {
  const client = await pool.connect()
  try {
    await client.query('begin')
    const result = await work(client)
    await client.query('commit')
    return result
  } catch (error) {
    await client.query('rollback')
    throw error
  } finally {
    client.release()
  }
}

const app = new Hono()
  .get('/row', async (c) => c.json((await pool.query('select * from bench_rows where id = $1', [anyRow()])).rows[0]))
  .post('/write', async (c) => {
    const { rows } = await transaction((client) =>
      client.query('update bench_rows set version = version + 1 where id = $1 returning *', [anyRow()]),
    )
    return c.json(rows[0])
  })
  .post('/checkout', async (c) => {
    const id = randomUUID()
    const document = JSON.stringify({ text: 'x'.repeat(1500) })
    await pool.query('select * from bench_rows where id = $1', [anyRow()])
    await transaction(async (client) => {
      await client.query('update bench_rows set version = version + 1 where id = $1 returning id', [anyRow()])
      await client.query('insert into bench_orders (id, basket_id, document) values ($1, $1, $2)', [id, document])
      await client.query('insert into bench_lines (order_id, line, sku) values ($1, 0, $2)', [id, 'sku'])
      await client.query('insert into bench_history (order_id, status) values ($1, $2)', [id, 'due'])
    })
    return c.json({ id }, 201)
  })
serve({ fetch: app.fetch, port: Number(port), hostname: '127.0.0.1' }, () => console.log('ready'))
