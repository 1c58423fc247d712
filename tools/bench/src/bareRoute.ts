import { readFileSync } from 'node:fs'
import { serve } from '@hono/node-server'
import { Hono } from 'hono'

// What the machine gives at best: a Hono route, alone in its process, that answers with the bytes of a file as JSON.
const [port, file] = process.argv.slice(2)
const text = readFileSync(file!, 'utf8')
const app = new Hono().get('/', (c) => c.body(text, 200, { 'Content-Type': 'application/ld+json; charset=utf-8' }))
serve({ fetch: app.fetch, port: Number(port), hostname: '127.0.0.1' }, () => console.log('ready'))
