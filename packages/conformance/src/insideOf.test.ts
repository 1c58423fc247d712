import { describe, expect, it } from 'vitest'
import { insideOf } from './insideOf.ts'

const KEY = 'the key of these tests'
const error = (message: string) => JSON.stringify({ error: message })

describe('of an answer to a stranger', () => {
  it.each([
    ['a stack trace', 'TypeError: x is not a function\n    at run (file:///srv/adapter/main.js:10:3)'],
    ['a stack trace', 'TypeError: x\n    at async /srv/adapter/main.js:10:3'],
    ['a stack trace', 'Traceback (most recent call last):\n  File "app.py", line 3, in fulfil'],
    ['a stack trace', 'java.lang.IllegalStateException: no\n\tat com.shop.Adapter.run(Adapter.java:42)'],
    ['a stack trace', 'panic: nil map\n\ngoroutine 7 [running]:\nmain.fulfil'],
    ['a stack trace', 'System.Data.SqlClient.SqlException: no'],
    ['SQL', 'failed: select code from codes where id = $1'],
    ['SQL', 'INSERT INTO runs (key) VALUES ($1)'],
    ['SQL', 'update codes set state = 1'],
    ['a message of the database', 'relation "runs" does not exist'],
    ['a message of the database', 'duplicate key value violates unique constraint'],
    ['a message of the database', 'invalid byte sequence for encoding "UTF8": 0x00'],
    ['a path', "ENOENT: no such file or directory, open '/var/lib/adapter/codes.txt'"],
    ['a path', 'could not load C:\\adapter\\codes.txt'],
    ['the service key', `wrong key, expected ${KEY}`],
  ])('finds %s in %j', (what, message) => {
    expect(insideOf(error(message), KEY)).toBe(what)
    expect(insideOf(message, KEY)).toBe(what)
  })

  it.each([
    'No mapping for seller/sku',
    "trigger must be 'confirmed' or 'finalized'",
    'Please select one from the list, where you like',
    'The pool is empty; we look at it again at 10:30',
    'Update your request and set a key',
    'Not found: /inventory/100/0xabab/voucher',
    'See https://example.org/docs/errors.html',
  ])('lets %j be', (message) => {
    expect(insideOf(error(message), KEY)).toBeUndefined()
  })
})
